//! Changes of the configuration while a process runs (UPDATE_BROKER_CONFIG 25, UPDATE_NAMESRV_CONFIG 318): what every core
//! does alike. Which keys there are, and where they are kept, its shell knows.

use crate::frame::Caller;
use crate::{Response, ResponseCode};

/// Largest change. Every key that there is, with its value, has less.
const CHANGE_MAX: usize = 64 << 10;

/// What became of a change. `L` is the part of the configuration that may change.
#[derive(Debug)]
pub enum Configured<L> {
    /// It is good, and kept where it can be.
    Changed {
        /// What holds from now on.
        live: L,
        /// What the operator should know.
        remark: Option<String>,
    },
    /// Nothing has changed.
    Refused {
        /// The code of the answer.
        code: ResponseCode,
        /// Which key, why, and what to do.
        why: String,
    },
}

/// Who waits for a change: one at a time, so that each begins with what the one before has left.
#[derive(Debug, Default)]
pub struct Changing {
    to: Option<Caller>,
}

impl Changing {
    /// What the shell is to check and keep; or why not now.
    pub fn begin(&mut self, from: Caller, text: &str) -> Result<String, Box<Response>> {
        if text.len() > CHANGE_MAX {
            let why = format!("the properties have {} bytes: the limit is {CHANGE_MAX}", text.len());
            return Err(Box::new(Response::refuse(ResponseCode::InvalidParameter, why)));
        }
        if self.to.is_some() {
            let why = "another change of the configuration is being written: send this one again";
            return Err(Box::new(Response::refuse(ResponseCode::SystemBusy, why)));
        }
        self.to = Some(from);
        Ok(text.to_owned())
    }

    /// Who is to be answered, and how, and what is to hold before that.
    pub fn end<L>(&mut self, configured: Configured<L>) -> (Caller, Response, Option<L>) {
        let to = self.to.take().expect("a change is asked for before it is made");
        match configured {
            Configured::Changed { live, remark } => {
                (to, Response { remark: remark.map(Into::into), ..Response::ok() }, Some(live))
            }
            Configured::Refused { code, why } => (to, Response::refuse(code, why), None),
        }
    }
}

/// The body of an answer to GET_BROKER_CONFIG 26 and GET_NAMESRV_CONFIG 319.
pub fn properties(shown: &[(String, String)]) -> String {
    shown.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}
