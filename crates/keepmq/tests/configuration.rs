//! The configuration of a running server, from outside: a request changes it, the file keeps it, the next start reads it.

use keepmq_protocol::frame::{self, FRAME_MAX, Form};
use keepmq_protocol::{Request, Response};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// `keepmq broker -c FILE` or `keepmq nameserver -c FILE` once it listens; killed when dropped.
struct Server(Child);

impl Server {
    fn start(role: &str, file: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepmq"));
        command.args([role, "-c"]).arg(file).stdin(Stdio::null()).env_remove("RUST_LOG").env_remove("NAMESRV_ADDR");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().expect("its log is a pipe"));
        while !said.contains("ready: ") {
            assert!(lines.read_line(&mut said).expect("it speaks UTF-8") > 0, "it ended before it was ready: {said}");
        }
        // Read on: a full pipe would stop it.
        std::thread::spawn(move || lines.read_to_string(&mut said));
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Without a word, as a crash would: what was answered is kept already.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn free_port() -> u16 {
    let start = u16::try_from(std::process::id() % 40).expect("below 40");
    let ports = (0..40).map(|step| 21_302 + (start + step) % 40 * 2);
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    ports.into_iter().find(|port| free(*port) && free(port - 2)).expect("not every port is taken")
}

fn ask(port: u16, request: &Request<'_>) -> Response {
    exchange(port, request).expect("the broker answers")
}

fn exchange(port: u16, request: &Request<'_>) -> io::Result<Response> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut out = Vec::new();
    frame::write_request(&mut out, 1, Form::Json, false, request);
    stream.write_all(&out)?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(raw) = frame::cut(&bytes, FRAME_MAX).map_err(io::Error::other)? {
            return frame::read(&raw).map(|frame| Response::read(&frame)).map_err(io::Error::other);
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

fn change(port: u16, text: &str) -> (i32, String) {
    let response = ask(port, &Request::ChangeBrokerConfig(text.into()));
    (response.code, response.remark.unwrap_or_default().into_owned())
}

fn values(port: u16) -> Vec<String> {
    let response = ask(port, &Request::BrokerConfig);
    String::from_utf8(response.body.concat()).expect("it speaks UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn a_change_holds_at_once_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.conf");
    let (port, root) = (free_port(), dir.path().join("store"));
    let text = format!(
        "# Broker of the test\nbrokerName = broker-a\nbindAddress=127.0.0.1\nlistenPort={port}\nmetricsPromExporterPort=0\n\
         mappedFileSizeCommitLog=4194304\nmaxMessageSize=65536\nstorePathRootDir={}\n\n! who may make topics\n\
         autoCreateTopicEnable : true\nobjectStoreSecretKey=geheim\n",
        root.display()
    );
    std::fs::write(&file, &text).unwrap();

    let broker = Server::start("broker", &file);
    let has = |line: &str| values(port).iter().any(|value| value == line);
    assert!(has("autoCreateTopicEnable=true") && has("syncFlushTimeout=5000"));
    assert!(!values(port).join("\n").contains("geheim"));

    let (code, why) = change(port, "autoCreateTopicEnable=false\nflushDiskType=ASYNC_FLUSH\n");
    assert_eq!(code, 29, "{why}");
    assert!(why.contains("flushDiskType") && why.contains("SEND_OK"), "{why}");
    assert!(has("autoCreateTopicEnable=true"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);

    assert_eq!(change(port, "autoCreateTopicEnable=false\nsyncFlushTimeout=7000\n"), (0, String::new()));
    assert!(has("autoCreateTopicEnable=false") && has("syncFlushTimeout=7000"));
    let kept = std::fs::read_to_string(&file).unwrap();
    assert_eq!(kept, text.replace("Enable : true", "Enable : false") + "syncFlushTimeout=7000\n");

    drop(broker);
    let _again = Server::start("broker", &file);
    assert!(has("autoCreateTopicEnable=false") && has("syncFlushTimeout=7000"));
}

#[test]
fn a_name_server_does_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("namesrv.conf");
    // Not one of those that the other test may take at the same time.
    let port = free_port() + 81;
    let text = format!(
        "# Names\nbindAddress=127.0.0.1\nlistenPort={port}\nkvConfigPath={}\n# how often\nscanNotActiveBrokerInterval=5000\n",
        dir.path().join("kv.json").display()
    );
    std::fs::write(&file, &text).unwrap();
    let change = |text: &'static str| ask(port, &Request::ChangeNameServerConfig(text.into()));
    let has = |line: &str| {
        let body = ask(port, &Request::NameServerConfig).body.concat();
        String::from_utf8(body).expect("it speaks UTF-8").lines().any(|value| value == line)
    };

    let server = Server::start("nameserver", &file);
    assert_eq!(change("kvConfigPath=/tmp/x").code, 16);
    assert_eq!(change("listenPort=1").code, 29);
    assert!(has("scanNotActiveBrokerInterval=5000"));
    assert!(change("scanNotActiveBrokerInterval=1000").is_ok());
    assert!(has("scanNotActiveBrokerInterval=1000"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text.replace("=5000", "=1000"));

    drop(server);
    let _again = Server::start("nameserver", &file);
    assert!(has("scanNotActiveBrokerInterval=1000"));
}
