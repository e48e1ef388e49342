//! A frame on the wire: length, header, body. Source: RocketMQ `NettyDecoder`, `RemotingCommand`, `RocketMQSerializable`.
//!
//! ```text
//!  0        4            5             8                8+h            4+total
//!  ├ total ─┼ form: u8 ──┼ h: u24 ─────┼ header, h bytes ┼ body ───────┤
//! ```
//! `total` counts everything behind itself. Form 0 is a JSON header, 1 the binary one. All integers are big-endian.

use crate::header::{FieldSink, Fields, Str};
use crate::seam::Conn;
use crate::{Request, Response};

mod binary;
mod scan;
mod text;

/// `version` that we answer with: RocketMQ 5.3.3, so that clients may use what a 5.3 broker offers.
pub const VERSION: i32 = 479;
/// Largest frame RocketMQ accepts, counting the length field.
pub const FRAME_MAX: usize = 16 * 1024 * 1024;
/// Most header fields that are read. The largest header of RocketMQ has about 20.
pub const FIELDS_MAX: usize = 1024;
/// Bytes before the header: length of the frame, form, length of the header.
const LEAD: usize = 8;
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

impl Language {
    const ALL: [(Self, &'static str); 14] = [
        (Self::Java, "JAVA"),
        (Self::Cpp, "CPP"),
        (Self::Dotnet, "DOTNET"),
        (Self::Python, "PYTHON"),
        (Self::Delphi, "DELPHI"),
        (Self::Erlang, "ERLANG"),
        (Self::Ruby, "RUBY"),
        (Self::Other, "OTHER"),
        (Self::Http, "HTTP"),
        (Self::Go, "GO"),
        (Self::Php, "PHP"),
        (Self::Oms, "OMS"),
        (Self::Rust, "RUST"),
        (Self::NodeJs, "NODE_JS"),
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// By the name in a JSON header; one that we do not know is `Other`.
    pub fn from_name(name: &str) -> Self {
        Self::ALL.iter().find(|(_, known)| *known == name).map_or(Self::Other, |(language, _)| *language)
    }

    /// By the number in a binary header; one that we do not know is `Other`.
    pub fn from_wire(code: u8) -> Self {
        Self::ALL.get(usize::from(code)).map_or(Self::Other, |(language, _)| *language)
    }
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

impl<'b> Frame<'b> {
    /// What holds for everything that a header does not say.
    fn blank(form: Form, body: &'b [u8]) -> Self {
        Self {
            form,
            code: 0,
            language: Language::Java,
            version: 0,
            opaque: 0,
            flag: 0,
            remark: None,
            fields: Fields::new(),
            body,
        }
    }

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
    let Some((total, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let total = i32::from_be_bytes(*total);
    let behind = usize::try_from(total).ok().filter(|behind| *behind >= 4).ok_or(FrameError::Short(total))?;
    let size = 4 + behind;
    if size > max {
        return Err(FrameError::TooLarge { len: size as u64, max });
    }
    let Some(([form, h2, h1, h0], rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let form = match form {
        0 => Form::Json,
        1 => Form::Binary,
        other => return Err(FrameError::Form(*other)),
    };
    let header = u32::from_be_bytes([0, *h2, *h1, *h0]) as usize;
    let room = behind - 4;
    if header > room {
        return Err(FrameError::HeaderTooLong { header, room });
    }
    Ok(rest.get(..room).map(|inner| {
        let (header, body) = inner.split_at(header);
        RawFrame { form, header, body, size }
    }))
}

/// Reads the header of a frame: the single-pass scanner for JSON as clients write it, serde_json for all other JSON.
pub fn read<'b>(raw: &RawFrame<'b>) -> Result<Frame<'b>, FrameError> {
    match raw.form {
        Form::Json => scan::read(raw).map_or_else(|| text::read(raw), Ok),
        Form::Binary => binary::read(raw),
    }
}

/// Appends the head (length, header) of the frame that answers `to`. The body's pieces follow it on the wire as they are.
pub fn write_response_head(out: &mut Vec<u8>, to: &Caller, response: &Response) {
    let head = Head { code: response.code, opaque: to.opaque, flag: FLAG_RESPONSE, remark: response.remark.as_deref() };
    let start = begin(out, to.form, &head, |fields| response.header.write(fields));
    finish(out, start, response.body.iter().map(bytes::Bytes::len).sum());
}

/// Appends a whole request frame, body included.
pub fn write_request(out: &mut Vec<u8>, opaque: i32, form: Form, oneway: bool, request: &Request<'_>) {
    let flag = if oneway { FLAG_ONEWAY } else { 0 };
    let head = Head { code: request.code(), opaque, flag, remark: None };
    let start = begin(out, form, &head, |fields| request.write_fields(fields));
    request.write_body(out);
    finish(out, start, 0);
}

/// What a header says besides its fields. Language and version are always ours.
struct Head<'h> {
    code: i32,
    opaque: i32,
    flag: i32,
    remark: Option<&'h str>,
}

/// Takes the fields of either form: both are appended to a buffer.
enum Sink<'o> {
    Text(text::Sink<'o>),
    Binary(binary::Sink<'o>),
}

impl FieldSink for Sink<'_> {
    fn text(&mut self, name: &str, value: &str) {
        match self {
            Self::Text(sink) => sink.text(name, value),
            Self::Binary(sink) => sink.text(name, value),
        }
    }

    fn number(&mut self, name: &str, value: i64) {
        match self {
            Self::Text(sink) => sink.number(name, value),
            Self::Binary(sink) => sink.number(name, value),
        }
    }
}

/// Appends room for the lengths, and the header. Answers where the frame begins.
fn begin(out: &mut Vec<u8>, form: Form, head: &Head<'_>, fields: impl FnOnce(&mut Sink<'_>)) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; LEAD]);
    match form {
        Form::Json => text::write(out, head, |sink| fields(&mut Sink::Text(sink))),
        Form::Binary => binary::write(out, head, |sink| fields(&mut Sink::Binary(sink))),
    }
    let header = out.len() - start - LEAD;
    assert!(header < 1 << 24, "a header we write fits its 24-bit length: {header} bytes");
    let lead = u32::try_from(header).expect("less than 2^24") | u32::from(form == Form::Binary) << 24;
    out[start + 4..start + LEAD].copy_from_slice(&lead.to_be_bytes());
    start
}

/// Sets the length of the frame that begins at `start` and goes on with `follows` bytes that are not in `out`.
fn finish(out: &mut [u8], start: usize, follows: usize) {
    let total = i32::try_from(out.len() - start - 4 + follows).expect("a frame we write is smaller than 2 GiB");
    out[start..start + 4].copy_from_slice(&total.to_be_bytes());
}

#[cfg(test)]
mod tests;
