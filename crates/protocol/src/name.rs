use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a name was refused. The text says what is wrong and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the specified {what} is blank")]
    Blank {
        /// "topic", "group" …
        what: &'static str,
    },
    /// A character outside RocketMQ's set.
    #[error("the specified {what} {name:?} contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    Illegal {
        /// "topic", "group" …
        what: &'static str,
        /// The name, cut to 200 characters.
        name: String,
    },
    /// Too long.
    #[error("the specified {what} is longer than {what} max length {max}: it has {len} bytes")]
    TooLong {
        /// "topic", "group" …
        what: &'static str,
        /// Bytes it has.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
}

/// Prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of a group's dead-letter topic.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Prefix of KeepMQ's own topics, which no client can see or send to.
pub const OWN_PREFIX: &str = "rmq_sys_keepmq_";
/// The topic whose records are the broker's metadata.
pub const META_TOPIC: &str = "rmq_sys_keepmq_meta";

/// The retry topic of `group`.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

fn check(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Blank { what });
    }
    if name.len() > max {
        return Err(NameError::TooLong { what, len: name.len(), max });
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'|' | b'_' | b'-')) {
        return Err(NameError::Illegal { what, name: name.chars().take(200).collect() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name! {
    /// A topic's name, checked: RocketMQ's characters, at most 127 bytes (255 for retry and dead-letter topics).
    Topic
}
name! {
    /// A consumer or producer group's name, checked: RocketMQ's characters, at most 120 bytes.
    ConsumerGroup
}
name! {
    /// A broker's (or cluster's) name, checked: never empty, no control characters, at most 127 bytes.
    BrokerName
}

impl Topic {
    /// Checks `name` without keeping it.
    pub fn check(name: &str) -> Result<(), NameError> {
        let long = name.starts_with(RETRY_PREFIX) || name.starts_with(DLQ_PREFIX);
        check("topic", name, if long { 255 } else { 127 })
    }

    /// Checks `name` and keeps it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        Self::check(name).map(|()| Self(name.into()))
    }

    /// Whether it is a group's retry topic.
    pub fn is_retry(&self) -> bool {
        self.0.starts_with(RETRY_PREFIX)
    }
}

impl ConsumerGroup {
    /// Checks `name` without keeping it.
    pub fn check(name: &str) -> Result<(), NameError> {
        check("group", name, 120)
    }

    /// Checks `name` and keeps it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        Self::check(name).map(|()| Self(name.into()))
    }
}

impl BrokerName {
    /// Checks `name` and keeps it. Host names are legal, so dots are.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let what = "broker name";
        if name.is_empty() {
            return Err(NameError::Blank { what });
        }
        if name.len() > 127 {
            return Err(NameError::TooLong { what, len: name.len(), max: 127 });
        }
        if name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | ' ' | ';' | ',' | '"')) {
            return Err(NameError::Illegal { what, name: name.to_owned() });
        }
        Ok(Self(name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_or_fool_a_parser_are_refused() {
        for bad in ["", "a/b", "..", "a\0b", "ä", "a b", &"x".repeat(128)] {
            assert!(Topic::new(bad).is_err(), "{bad:?}");
        }
        for good in ["T", "%RETRY%g", "a|b_c-9", &"x".repeat(127), &format!("%RETRY%{}", "g".repeat(248))] {
            assert_eq!(Topic::new(good).map(|t| t.to_string()), Ok(good.to_string()));
        }
        assert!(ConsumerGroup::new(&"g".repeat(121)).is_err());
    }
}
