//! Connections that we make.
