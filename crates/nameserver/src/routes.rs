//! Brokers → routes.
