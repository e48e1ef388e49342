use keepmq_protocol::frame::{Caller, Form, Language};
use keepmq_protocol::seam::Conn;

pub(crate) fn caller(conn: Conn, opaque: i32) -> Caller {
    Caller { conn, opaque, form: Form::Json, oneway: false, version: 479, language: Language::Java }
}
