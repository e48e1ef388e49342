//! The record log over its segments.
