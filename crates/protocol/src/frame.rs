//! A frame on the wire: length, header, body. Source: RocketMQ `NettyDecoder`, `RemotingCommand`, `RocketMQSerializable`.
//!
//! ```text
//!  0        4            5             8                8+h            4+total
//!  ├ total ─┼ form: u8 ──┼ h: u24 ─────┼ header, h bytes ┼ body ───────┤
//! ```
//! `total` counts everything behind itself. Form 0 is a JSON header, 1 the binary one. All integers are big-endian.

use crate::header::{Fields, Str};
use crate::seam::Conn;
use crate::{Request, Response};

/// `version` that we answer with: RocketMQ 5.3.3, so that clients may use what a 5.3 broker offers.
pub const VERSION: i32 = 479;
/// Largest frame RocketMQ accepts, counting the length field.
pub const FRAME_MAX: usize = 16 * 1024 * 1024;
/// Bit of `flag`: this frame is a response.
pub const FLAG_RESPONSE: i32 = 1;
/// Bit of `flag`: no response is wanted.
pub const FLAG_ONEWAY: i32 = 2;

/// How a header is written. A response is written as its request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// JSON text; what Java and Go clients send unless told otherwise.
    Json,
    /// RocketMQ's binary header.
    Binary,
}

/// Who asked, and how the answer is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The connection it came on.
    pub conn: Conn,
    /// The caller's number for the request.
    pub opaque: i32,
    /// The form of the request's header.
    pub form: Form,
    /// No answer is wanted.
    pub oneway: bool,
    /// The caller's `MQVersion`.
    pub version: i32,
    /// The caller's language.
    pub language: Language,
}

/// The implementation language a peer names. Source: RocketMQ `LanguageCode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Language {
    #[default]
    Java = 0,
    Cpp = 1,
    Dotnet = 2,
    Python = 3,
    Delphi = 4,
    Erlang = 5,
    Ruby = 6,
    Other = 7,
    Http = 8,
    Go = 9,
    Php = 10,
    Oms = 11,
    Rust = 12,
    NodeJs = 13,
}

/// Why bytes are not a frame. Every variant means that the connection cannot go on, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is negative, or too small to hold a header length.
    #[error("a frame says it is {0} bytes long; the least is 4")]
    Short(i32),
    /// The frame would be larger than allowed. Found before anything is allocated for it.
    #[error("a frame says it is {len} bytes long; the limit is {max}")]
    TooLarge {
        /// What it says, with the length field.
        len: u64,
        /// What is allowed.
        max: usize,
    },
    /// The header would reach beyond the frame.
    #[error("a header says it is {header} bytes long in a frame with room for {room}")]
    HeaderTooLong {
        /// What it says.
        header: usize,
        /// What the frame leaves for it.
        room: usize,
    },
    /// Neither form.
    #[error("a header of unknown form {0}; 0 is JSON, 1 is binary")]
    Form(u8),
    /// The header cannot be read. The boundary of the frame is known: the connection may go on without an answer.
    #[error("a header cannot be read: {0}")]
    Header(String),
}

/// A frame cut out of a stream, header not yet read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawFrame<'b> {
    /// How the header is written.
    pub form: Form,
    /// The header's bytes.
    pub header: &'b [u8],
    /// The body's bytes; empty when there is none.
    pub body: &'b [u8],
    /// Bytes of the whole frame, length field included.
    pub size: usize,
}

/// A frame whose header has been read; still without knowledge of what the code means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// How the header was written.
    pub form: Form,
    /// Request code or response code.
    pub code: i32,
    /// The sender's language.
    pub language: Language,
    /// The sender's `MQVersion`.
    pub version: i32,
    /// The asking side's number.
    pub opaque: i32,
    /// `FLAG_RESPONSE`, `FLAG_ONEWAY`.
    pub flag: i32,
    /// Text for people.
    pub remark: Option<Str<'b>>,
    /// The flattened header fields.
    pub fields: Fields<'b>,
    /// The body.
    pub body: &'b [u8],
}

impl Frame<'_> {
    /// Whether it answers something.
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Who sent it, when it is a request that came on `conn`.
    pub fn caller(&self, conn: Conn) -> Caller {
        Caller {
            conn,
            opaque: self.opaque,
            form: self.form,
            oneway: self.flag & FLAG_ONEWAY != 0,
            version: self.version,
            language: self.language,
        }
    }
}

/// Cuts the first frame off `bytes`; `None` when it is not complete yet. Allocates nothing; an illegal length is found
/// as soon as its four bytes are there. `max` counts the whole frame.
pub fn cut(bytes: &[u8], max: usize) -> Result<Option<RawFrame<'_>>, FrameError> {
    let _ = (bytes, max);
    todo!()
}

/// Reads the header of a frame: the single-pass scanner for JSON as clients write it, serde_json for all other JSON.
pub fn read<'b>(raw: &RawFrame<'b>) -> Result<Frame<'b>, FrameError> {
    let _ = raw;
    todo!()
}

/// Appends the head (length, header) of the frame that answers `to`. The body's pieces follow it on the wire as they are.
pub fn write_response_head(out: &mut Vec<u8>, to: &Caller, response: &Response) {
    let _ = (out, to, response);
    todo!()
}

/// Appends a whole request frame, body included.
pub fn write_request(out: &mut Vec<u8>, opaque: i32, form: Form, oneway: bool, request: &Request<'_>) {
    let _ = (out, opaque, form, oneway, request);
    todo!()
}
