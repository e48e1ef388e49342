//! `keepmq send`: messages, and what became of each.

use crate::args::{Connect, Output};
use crate::cluster::Cluster;
use crate::interrupt::Interrupt;
use crate::problem;
use crate::table::{Format, Table, say};
use crate::verb::topic::named;
use clap::Args;
use keepmq_client::{Message, Producer, Receipt, SendError, Topic};
use keepmq_server::{ExitCode, Failure, Problem};
use serde_json::{Value, json};
use std::io::{BufRead, Read};
use std::time::{Duration, Instant};

/// Largest body that is sent: a broker says what its own limit is, and a frame has 16 MiB.
const BODY_MAX: usize = 15 << 20;
/// The topic after which others are created; only brokers that create topics have it.
const PATTERN: &str = "TBW102";
/// The producer group.
const GROUP: &str = "keepmq-cli";
const COLUMNS: &[&str] = &["STATUS", "ID", "BROKER", "QUEUE", "OFFSET", "MS"];

/// Sends one message, or with --lines one for each line. "kept" means SEND_OK: it is as safe as the broker is configured to make
/// it. Ends with 0 only if all were.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  keepmq send orders 'hello'\n  keepmq send orders @order.json --key 42 --tag created\n  \
                        printf 'a\\nb\\n' | keepmq send orders - --lines -o ndjson"
)]
pub struct Send {
    /// Where to
    topic: String,
    /// What: the text itself, @FILE, or - for standard input
    #[arg(default_value = "-", allow_hyphen_values = true)]
    body: String,
    /// A key by which it is found; may be given several times
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Its tag, by which consumers choose
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// A property of your own; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    property: Vec<String>,
    /// One message for each line of what is given
    #[arg(long)]
    lines: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
}

impl Send {
    pub(crate) async fn run(&self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        let topic = named(&self.topic)?;
        let bodies = self.bodies()?;
        let messages = bodies.into_iter().map(|body| self.message(body)).collect::<Result<Vec<_>, _>>()?;
        interrupt.unless(known(&self.connect, &topic)).await?;
        let producer = producer(&self.connect).await?;
        let sent = self.send_all(&producer, messages, interrupt).await;
        // Nothing is under way by now.
        producer.close(Duration::ZERO).await;
        sent
    }

    async fn send_all(
        &self,
        producer: &Producer,
        messages: Vec<Message>,
        interrupt: &Interrupt,
    ) -> Result<(), Failure> {
        let count = messages.len();
        let mut table = Table::new(COLUMNS);
        let mut failures: Vec<SendError> = Vec::new();
        let mut sent = 0;
        for message in messages {
            if interrupt.is_asked() {
                break;
            }
            let began = Instant::now();
            let outcome = producer.send(message).await;
            sent += 1;
            let row = row(&outcome, began.elapsed());
            if self.output.format == Format::Table {
                say(&line(&row))?;
            } else {
                table.push(row);
            }
            failures.extend(outcome.err());
        }
        if self.output.format != Format::Table {
            table.print(self.output.format)?;
        }
        match failures.as_slice() {
            [] if sent < count => Err(Failure::said(ExitCode::Interrupted)),
            [] => Ok(()),
            [only] if count == 1 => Err(problem::send(&self.topic, only)),
            [first, ..] => {
                let refused = failures.iter().filter(|error| matches!(error, SendError::Refused { .. })).count();
                let unknown = failures.len() - refused;
                let title = format!("{} of {sent} messages have no SEND_OK", failures.len());
                let what = format!("{refused} were refused, of {unknown} nobody knows; the first: {first}");
                let why = "what was refused is not kept; what is unknown may be kept or not";
                let remedy = "send the refused ones again; look for the unknown ones by their id first";
                Err(Failure::new(ExitCode::NotAllKept, Problem::new(title, what, why, remedy)))
            }
        }
    }

    fn bodies(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let unread = |error| problem::io("what is to be sent cannot be read", &error);
        let input: Box<dyn Read> = match self.body.strip_prefix('@') {
            _ if self.body == "-" => Box::new(std::io::stdin()),
            Some(path) => Box::new(std::fs::File::open(path).map_err(|error| {
                let why = "its content is the message";
                let problem =
                    Problem::new(format!("{path} cannot be read"), error.to_string(), why, "give another file");
                Failure::new(ExitCode::NotFound, problem)
            })?),
            None => Box::new(std::io::Cursor::new(self.body.clone().into_bytes())),
        };
        if self.lines {
            let lines = std::io::BufReader::new(input).split(b'\n');
            return lines
                .filter(|line| line.as_ref().map_or(true, |line| !line.is_empty()))
                .map(|line| line.map_err(unread))
                .collect();
        }
        let mut body = Vec::new();
        // One byte more than may be sent shows that it is too much.
        input.take(BODY_MAX as u64 + 1).read_to_end(&mut body).map_err(unread)?;
        Ok(vec![body])
    }

    fn message(&self, body: Vec<u8>) -> Result<Message, Failure> {
        if body.len() > BODY_MAX {
            let what = format!("it has more than {BODY_MAX} bytes");
            let why =
                "a frame of RocketMQ's protocol has at most 16 MiB, and brokers take less (maxMessageSize, 4 MiB)";
            let remedy = "send it in parts, or send where it lies";
            return Err(Failure::new(ExitCode::Refused, Problem::new("the body is too large", what, why, remedy)));
        }
        let build = || {
            let mut message = Message::new(&self.topic, body)?;
            if let Some(tag) = &self.tag {
                message = message.tag(tag)?;
            }
            if !self.key.is_empty() {
                message = message.keys(self.key.iter().map(String::as_str))?;
            }
            for property in &self.property {
                // Without the sign the value is empty, which is refused with its name.
                let (name, value) = property.split_once('=').unwrap_or((property, ""));
                message = message.property(name, value)?;
            }
            Ok::<_, keepmq_client::MessageError>(message)
        };
        build().map_err(|error| {
            problem::usage("the message cannot be sent", error, "change the words of the command line")
        })
    }
}

/// A producer of the command line's own group.
async fn producer(connect: &Connect) -> Result<Producer, Failure> {
    let builder = Producer::builder(&connect.name_servers, GROUP).send_timeout(connect.timeout);
    let builder = builder.configure(|config| {
        config.max_message_bytes = BODY_MAX;
        config.attempt_timeout = config.attempt_timeout.min(connect.timeout);
    });
    builder.start().await.map_err(|error| problem::start(&error))
}

/// Whether a topic can be sent to, before anything is: it is there, or the first message creates it.
async fn known(connect: &Connect, topic: &Topic) -> Result<(), Failure> {
    let cluster = Cluster::connect(connect).await?;
    match cluster.masters_of(topic).await {
        Err(failure) if failure.exit == ExitCode::NotFound => {
            let pattern = Topic::new(PATTERN).expect("a legal name");
            cluster.masters_of(&pattern).await.map(drop).map_err(|_| failure)
        }
        known => known.map(drop),
    }
}

fn row(outcome: &Result<Receipt, SendError>, took: Duration) -> [Value; 6] {
    let ms = json!((took.as_secs_f64() * 1e4).round() / 10.0);
    match outcome {
        Ok(Receipt { message_id, queue, offset, .. }) => {
            [json!("kept"), json!(message_id), json!(queue.broker.as_str()), json!(queue.id), json!(offset.0), ms]
        }
        Err(SendError::Refused { message_id, broker, .. }) => {
            let broker = broker.as_ref().map(|broker| broker.as_str());
            [json!("refused"), json!(message_id), json!(broker), Value::Null, Value::Null, ms]
        }
        Err(SendError::Unknown { message_id, broker, .. }) => {
            let broker = broker.as_ref().map(|broker| broker.as_str());
            [json!("unknown"), json!(message_id), json!(broker), Value::Null, Value::Null, ms]
        }
    }
}

fn line([status, id, broker, queue, offset, ms]: &[Value; 6]) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let place = if offset.is_null() { String::new() } else { format!("  {}/q{queue}@{offset}", text(broker)) };
    format!("{:<7}  {}{place}  {ms} ms\n", text(status), text(id))
}
