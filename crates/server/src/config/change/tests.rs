use super::super::{BROKER, Flag, NAME_SERVER, configure_name_server};
use super::*;
use crate::config::BrokerSetup;
use keepmq_protocol::change::Configured;

const FILE: &str = "# ours\nbrokerName = b\nautoCreateTopicEnable = true\nstorePathRootDir=/data\nbrokerIP1=10.0.0.5\n\
                    sendMessageThreadPoolNums=16\nobjectStoreSecretKey=geheim\n";

/// A broker's effective settings, from a file in a new folder.
fn started(text: &str) -> (tempfile::TempDir, PathBuf, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broker.conf");
    fs::write(&path, text).unwrap();
    let settings = Settings::read(&BROKER, Some(&path), &[]).unwrap();
    let settings = BrokerSetup::new(settings).unwrap().settings;
    (folder, path, settings)
}

#[test]
fn what_is_changed_is_kept_and_holds() {
    let (folder, path, mut settings) = started(FILE);
    let asked =
        "autoCreateTopicEnable=FALSE\nlongPollingEnable=false \nbrokerName=b\nfileReservedTime=1\nfileReservedTime=2";
    let remark = settings.change(asked).unwrap().unwrap();
    assert!(remark.contains("the blanks behind longPollingEnable=false are taken off"), "{remark}");
    assert_eq!((settings.flag("autoCreateTopicEnable"), settings.flag("longPollingEnable")), (false, false));
    assert_eq!(settings.text("fileReservedTime"), "2");
    let kept = fs::read_to_string(&path).unwrap();
    let expected = FILE.replace("= true", "= FALSE") + "longPollingEnable=false\nfileReservedTime=2\n";
    assert_eq!(kept, expected);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    // The next start reads the same.
    let again = Settings::read(&BROKER, Some(&path), &[]).and_then(BrokerSetup::new).unwrap();
    assert!(!again.broker.live.auto_create_topic && !again.broker.live.long_polling);
    assert!(!format!("{:?}", again.broker.live.shown).contains("geheim"));
}

#[test]
fn one_bad_line_refuses_all_and_says_why() {
    let (_folder, path, mut settings) = started(FILE);
    for (line, code, parts) in [
        ("", 29, &["no line key=value"][..]),
        ("longPollingEnabel=false", 29, &["longPollingEnabel is not known", "did you mean longPollingEnable?"]),
        ("longPollingEnable=yes", 29, &["longPollingEnable has a value that it cannot have", "give true or false"]),
        ("brokerPermission=7", 29, &["6 or 4 or 2"]),
        ("flushDiskType=ASYNC_FLUSH", 29, &["flushDiskType", "what SEND_OK promises", "in the configuration file"]),
        ("listenPort=20911", 29, &["listenPort", "read once, at the start"]),
        ("sendMessageThreadPoolNums=32", 29, &["sendMessageThreadPoolNums", "has no effect here"]),
        ("transactionCheckMax=3", 29, &["transactionCheckMax is not built yet", "transactions"]),
        ("enableDLegerCommitLog=true", 29, &["enableDLegerCommitLog is not supported"]),
        ("objectStoreSecretKey=secret1", 29, &["objectStoreSecretKey"]),
        ("objectStoreSecretKye=secret1", 29, &["did you mean objectStoreSecretKey?"]),
        ("configBlackList=", 16, &["black list", "configBlackList"]),
        ("brokerConfigPath=/x", 16, &["black list"]),
        ("a=\\u12", 29, &["line 2"]),
    ] {
        // The line before it is good, and is refused with it.
        let good = if line.is_empty() { "" } else { "autoCreateTopicEnable=false\n" };
        let refusal = settings.change(&format!("{good}{line}")).unwrap_err();
        assert_eq!(refusal.code as i32, code, "{line}: {}", refusal.why);
        for part in parts {
            assert!(refusal.why.contains(part), "{line}: {part:?} in {}", refusal.why);
        }
        assert!(
            refusal.why.to_lowercase().contains("nothing was changed") && !refusal.why.contains("secret1"),
            "{}",
            refusal.why
        );
    }
    assert!(settings.flag("autoCreateTopicEnable"));
    assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
    let both = settings.change("listenPort=1\nnoSuchKeyAnywhere=1").unwrap_err().why;
    assert!(both.contains("listenPort") && both.contains("noSuchKeyAnywhere"), "{both}");
}

#[test]
fn the_black_list_is_the_operators() {
    let (_folder, _, mut settings) = started(&format!("{FILE}configBlackList=longPollingEnable; fileReservedTime\n"));
    for key in ["longPollingEnable=false", "fileReservedTime=1", "configBlackList=x"] {
        assert_eq!(settings.change(key).unwrap_err().code, ResponseCode::NoPermission, "{key}");
    }
    assert_eq!(settings.change("syncFlushTimeout=+1"), Ok(None));
    assert_eq!(settings.number::<u32>("syncFlushTimeout"), 1);
}

#[test]
fn a_change_that_cannot_be_kept_is_not_made() {
    let (folder, path, mut settings) = started(FILE);
    fs::remove_file(&path).unwrap();
    let refusal = settings.change("longPollingEnable=false").unwrap_err();
    assert_eq!(refusal.code, ResponseCode::SystemError);
    assert!(refusal.why.contains("cannot be read"), "{}", refusal.why);
    fs::write(&path, FILE).unwrap();
    fs::create_dir(folder.path().join(".broker.conf.keepmq")).unwrap();
    let refusal = settings.change("longPollingEnable=false").unwrap_err();
    assert!(refusal.why.contains("cannot be written"), "{}", refusal.why);
    assert!(settings.flag("longPollingEnable"));
    assert_eq!(fs::read_to_string(&path).unwrap(), FILE);
}

#[test]
fn a_link_stays_a_link_and_rights_stay() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path, _) = started(FILE);
    let link = folder.path().join("link.conf");
    std::os::unix::fs::symlink("broker.conf", &link).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let mut settings = Settings::read(&BROKER, Some(&link), &[]).unwrap();
    assert_eq!(settings.change("brokerPermission=4"), Ok(None));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::read_to_string(&path).unwrap().ends_with("brokerPermission=4\n"));
}

#[test]
fn a_name_servers_configuration_changes_likewise() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("namesrv.conf");
    fs::write(&path, "# ours\norderMessageEnable=false\nkvConfigPath=/x\n").unwrap();
    let mut settings = Settings::read(&NAME_SERVER, Some(&path), &[]).unwrap();
    let mut change = |text| match configure_name_server(&mut settings, text) {
        Configured::Changed { live, .. } => Ok(live),
        Configured::Refused { code, why } => Err((code as i32, why)),
    };
    for (text, code) in [("kvConfigPath=/y", 16), ("listenPort=1", 29), ("flushDiskType=SYNC_FLUSH", 29)] {
        assert_eq!(change(text).unwrap_err().0, code, "{text}");
    }
    let live = change("orderMessageEnable=true\nscanNotActiveBrokerInterval=1000\n").unwrap();
    assert!(live.order_in_routes && live.order_to_brokers);
    assert_eq!(live.scan_every.as_secs(), 1);
    assert!(live.shown.contains(&("orderMessageEnable".to_owned(), "true".to_owned())));
    let kept = fs::read_to_string(&path).unwrap();
    assert_eq!(kept, "# ours\norderMessageEnable=true\nkvConfigPath=/x\nscanNotActiveBrokerInterval=1000\n");
}

#[test]
fn without_a_file_it_holds_until_the_restart() {
    let flags: [Flag; 1] = [("storePathRootDir", "/data".to_owned(), "--data")];
    let mut settings = Settings::read(&BROKER, None, &flags).unwrap();
    let remark = settings.change("longPollingEnable=false").unwrap().unwrap();
    assert!(remark.contains("until the restart"), "{remark}");
    assert!(!settings.flag("longPollingEnable"));
}
