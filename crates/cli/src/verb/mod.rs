//! The verbs: what each is told on the command line, and what it does.

pub mod bench;
