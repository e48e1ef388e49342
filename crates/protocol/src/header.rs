//! Header fields, declared once: [`header!`](crate::header!) derives reading and writing, for both forms of a header.
//!
//! On the wire every field is text under a name (RocketMQ's `extFields`). A field may have a second, short name
//! (SEND_MESSAGE_V2). Unknown fields are ignored; a field that is missing or cannot be read is an error that names it.

use smallvec::SmallVec;
use std::borrow::Cow;

/// Text that is borrowed from the frame wherever the frame holds it unescaped.
pub type Str<'b> = Cow<'b, str>;

/// The fields of one frame, in the order in which they came. A null field is absent.
pub type Fields<'b> = SmallVec<[(Str<'b>, Str<'b>); 20]>;

/// Why a header could not be read from its fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A field that must be there is not.
    #[error("the header field {0:?} is missing")]
    Missing(&'static str),
    /// A field cannot be read as what it must be.
    #[error("the header field {name:?} is {value:?}, which is not {expected}")]
    Mistyped {
        /// The field.
        name: &'static str,
        /// What it holds, cut to 100 characters.
        value: String,
        /// What it must hold.
        expected: &'static str,
    },
}

/// Takes fields that are being written.
pub trait FieldSink {
    /// A text field.
    fn text(&mut self, name: &str, value: &str);
    /// A number.
    fn number(&mut self, name: &str, value: i64);
}

/// A type that a header field can have.
pub trait Field<'b>: Sized {
    /// What it is called in an error text.
    const EXPECTED: &'static str;
    /// The value of an absent field; `None` when it must be there.
    fn absent() -> Option<Self>;
    /// Reads it.
    fn read(text: &Str<'b>) -> Option<Self>;
    /// Writes it.
    fn write(&self, name: &'static str, sink: &mut impl FieldSink);
}

impl<'b> Field<'b> for Str<'b> {
    const EXPECTED: &'static str = "text";
    fn absent() -> Option<Self> {
        None
    }
    fn read(text: &Str<'b>) -> Option<Self> {
        Some(text.clone())
    }
    fn write(&self, name: &'static str, sink: &mut impl FieldSink) {
        sink.text(name, self);
    }
}

macro_rules! number_field {
    ($type:ty, $expected:literal) => {
        impl Field<'_> for $type {
            const EXPECTED: &'static str = $expected;
            fn absent() -> Option<Self> {
                None
            }
            fn read(text: &Str<'_>) -> Option<Self> {
                text.parse().ok()
            }
            fn write(&self, name: &'static str, sink: &mut impl FieldSink) {
                sink.number(name, i64::from(*self));
            }
        }
    };
}
number_field!(i32, "a 32-bit number");
number_field!(i64, "a 64-bit number");

impl Field<'_> for bool {
    const EXPECTED: &'static str = "true or false";
    fn absent() -> Option<Self> {
        Some(false)
    }
    /// As Java's `Boolean.parseBoolean`: whatever is not "true" is false.
    fn read(text: &Str<'_>) -> Option<Self> {
        Some(text.eq_ignore_ascii_case("true"))
    }
    fn write(&self, name: &'static str, sink: &mut impl FieldSink) {
        sink.text(name, if *self { "true" } else { "false" });
    }
}

impl<'b, T: Field<'b>> Field<'b> for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn absent() -> Option<Self> {
        Some(None)
    }
    fn read(text: &Str<'b>) -> Option<Self> {
        T::read(text).map(Some)
    }
    fn write(&self, name: &'static str, sink: &mut impl FieldSink) {
        if let Some(value) = self {
            value.write(name, sink);
        }
    }
}

/// Declares a header: each field once, with its type and its name on the wire (`"long"`, or `"long" | "s"` with a short one).
///
/// Derives `read(&Fields) -> Result<Self, HeaderError>` (either name), `write(&self, sink)` (long names) and
/// `write_short(&self, sink)` (short names where there are any).
#[macro_export]
macro_rules! header {
    (
        $(#[$doc:meta])*
        pub struct $name:ident<'b> {
            $($(#[$fdoc:meta])* pub $field:ident: $type:ty = $wire:literal $(| $short:literal)?,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name<'b> {
            $($(#[$fdoc])* pub $field: $type,)*
        }

        impl<'b> $name<'b> {
            /// Reads it from the fields of a frame.
            pub fn read(fields: &$crate::header::Fields<'b>) -> Result<Self, $crate::header::HeaderError> {
                $(let mut $field: Option<$type> = None;)*
                for (name, text) in fields {
                    match &**name {
                        $($wire $(| $short)? => $field = Some($crate::header::read_field($wire, text)?),)*
                        _ => {}
                    }
                }
                Ok(Self {
                    $($field: match $field {
                        Some(value) => value,
                        None => <$type as $crate::header::Field<'b>>::absent()
                            .ok_or($crate::header::HeaderError::Missing($wire))?,
                    },)*
                })
            }

            /// Writes it under the long names.
            pub fn write(&self, sink: &mut impl $crate::header::FieldSink) {
                $($crate::header::Field::write(&self.$field, $wire, sink);)*
            }

            /// Writes it under the short names, where a field has one.
            pub fn write_short(&self, sink: &mut impl $crate::header::FieldSink) {
                $($crate::header::Field::write(&self.$field, $crate::header!(@short $wire $(, $short)?), sink);)*
            }
        }
    };
    (@short $wire:literal, $short:literal) => { $short };
    (@short $wire:literal) => { $wire };
}

/// One field of a header that [`header!`](crate::header!) declares.
pub fn read_field<'b, T: Field<'b>>(name: &'static str, text: &Str<'b>) -> Result<T, HeaderError> {
    T::read(text).ok_or_else(|| HeaderError::Mistyped {
        name,
        value: text.chars().take(100).collect(),
        expected: T::EXPECTED,
    })
}
