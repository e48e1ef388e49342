//! What went wrong, in words for whoever must solve it.

use keepmq_client::{AdminError, SendError, StartError};
use keepmq_protocol::ResponseCode;
use keepmq_server::{ExitCode, Failure, Problem};
use std::fmt::Display;
use std::io;

/// Something of this machine.
pub(crate) fn io(title: &str, error: &io::Error) -> Failure {
    let why = "this machine or its disk does not allow it";
    Failure::new(
        ExitCode::Io,
        Problem::new(title, error.to_string(), why, "make room, or look at its limits and rights"),
    )
}

/// Something that the command line asks for and that cannot be.
pub(crate) fn usage(title: impl Into<String>, what: impl Display, remedy: &str) -> Failure {
    let why = "a guess might do harm";
    Failure::new(ExitCode::Usage, Problem::new(title, what.to_string(), why, remedy))
}

/// A client that could not be started.
pub(crate) fn start(error: &StartError) -> Failure {
    match error {
        StartError::System(_) | StartError::Runtime => {
            let why = "each client has a thread and a few descriptors of its own";
            let remedy = "look at the limits of processes and open files (ulimit -a)";
            Failure::new(ExitCode::Io, Problem::new("the client cannot be started", error.to_string(), why, remedy))
        }
        error => usage("the client cannot be started", error, "mend the words of the command line"),
    }
}

/// No name server has answered: each with its reason.
pub(crate) fn unreachable<A: Display, W: Display>(tried: &[(A, W)]) -> Failure {
    let reason = |address: &A, why: &W| {
        let (address, why) = (address.to_string(), why.to_string());
        // Whoever has dialled has named the address already.
        let bare = why.rsplit_once(&format!("{address}: ")).map_or(why.as_str(), |(_, bare)| bare);
        format!("{address}: {bare}")
    };
    let tried: Vec<String> = tried.iter().map(|(address, why)| reason(address, why)).collect();
    let what = if tried.is_empty() { "none has answered in time".to_owned() } else { tried.join("\n") };
    let why = "only a name server knows which broker serves a topic";
    let remedy = "start one (keepmq dev, or keepmq nameserver), or give its address with -n or NAMESRV_ADDR";
    Failure::new(ExitCode::Unreachable, Problem::new("no name server can be reached", what, why, remedy))
}

/// There is no such topic.
pub(crate) fn no_topic(topic: &str, what: &str) -> Failure {
    let why = "no broker serves it, and none creates topics by itself (autoCreateTopicEnable)";
    let remedy = format!("keepmq topic create {topic}, or look for another spelling: keepmq topic list");
    Failure::new(ExitCode::NotFound, Problem::new(format!("there is no topic {topic:?}"), what, why, remedy))
}

/// A broker that a name server knows of and that cannot be talked to.
pub(crate) fn broker(name: &str, address: &str, why: &AdminError) -> Failure {
    away(&format!("broker {name}"), &format!("{address}: {why}"))
}

fn away(who: &str, what: &str) -> Failure {
    let why = "the name server knows this address, but from this machine it is not answered";
    let remedy = "see that the broker runs; is its address (brokerIP1 in broker.conf) one that this machine can reach?";
    let title = format!("{who} cannot be reached");
    Failure::new(ExitCode::Unreachable, Problem::new(title, what, why, remedy))
}

/// An answer that says no. `doing`: what was asked.
pub(crate) fn refused(doing: &str, who: &str, code: i32, remark: &str) -> Failure {
    no(doing, code, &format!("{who} answers with code {code}: {remark}"))
}

fn no(doing: &str, code: i32, what: &str) -> Failure {
    let known = |wanted: ResponseCode| code == wanted as i32;
    let missing = known(ResponseCode::TopicNotExist) || known(ResponseCode::SubscriptionGroupNotExist);
    let (exit, remedy) = if missing {
        (ExitCode::NotFound, "look for the right name: keepmq topic list, keepmq group list")
    } else if known(ResponseCode::MessageIllegal) {
        (ExitCode::Refused, "change the message as the broker says; its limit of size is maxMessageSize in broker.conf")
    } else if known(ResponseCode::NoPermission) {
        (
            ExitCode::Refused,
            "look at the permission of the topic (keepmq topic describe) and of the broker (brokerPermission)",
        )
    } else if known(ResponseCode::SystemBusy) {
        (ExitCode::Refused, "send again when its disk has caught up, or send less")
    } else {
        (ExitCode::Refused, "do as the broker says; its log has more")
    };
    Failure::new(exit, Problem::new(format!("{doing} is refused"), what, "nothing has been changed by it", remedy))
}

/// A send that did not end with SEND_OK.
pub(crate) fn send(topic: &str, error: &SendError) -> Failure {
    match error {
        SendError::Refused { code: Some(code), why, .. } => no(&format!("the message to {topic:?}"), *code, why),
        SendError::Refused { code: None, broker: Some(broker), why, .. } => away(&format!("broker {broker}"), why),
        SendError::Refused { code: None, broker: None, why, .. } => {
            let remedy = "change the message, or look at what the name servers say: keepmq topic describe";
            let problem =
                Problem::new(format!("the message to {topic:?} was not sent"), why, "nobody has kept it", remedy);
            Failure::new(ExitCode::Refused, problem)
        }
        SendError::Unknown { message_id, code, broker, why, attempts } => {
            let who = broker.as_ref().map_or("nobody", |broker| broker.as_str());
            let code = code.map_or_else(String::new, |code| format!(" (code {code})"));
            let what = format!("{who}{code}: {why}; {attempts} attempts; its id is {message_id}");
            let why = "an answer that does not come, or that is not SEND_OK, says nothing about the message";
            let remedy = "look for the id among the topic's messages; sending again may make a second copy";
            let title = format!("nobody can say whether the message to {topic:?} was kept");
            Failure::new(ExitCode::NotAllKept, Problem::new(title, what, why, remedy))
        }
    }
}

/// An answer that cannot be read.
pub(crate) fn unreadable(what: &str, error: &dyn Display) -> Failure {
    let why = "it does not have the form that RocketMQ gives it";
    let remedy = "see which program listens at that address";
    Failure::new(ExitCode::Refused, Problem::new(format!("{what} cannot be read"), error.to_string(), why, remedy))
}
