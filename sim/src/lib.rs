//! x
mod disk;
