//! Carries the compiled policies and applies them: the one door into the cage.
