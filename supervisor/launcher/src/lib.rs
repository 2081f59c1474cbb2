//! The privileged parent: makes jails, starts workers, hears no client.
