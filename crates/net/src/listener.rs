//! Connections that others make.
