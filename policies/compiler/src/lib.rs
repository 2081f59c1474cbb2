//! Compiles the seccomp and Landlock policies (TOML) at build time.
