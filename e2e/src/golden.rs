//! Golden frames: what the Java client, name server and broker really wrote, in both header
//! encodings, one file a frame: `testdata/golden/<code>-<name>[-<variant>].<kind>.<encoding>.bin`.
//!
//! `e2e golden` renews them by running `Capture.java` through recording proxies. A variant is the
//! answer's code when it is not 0, and `largest` for a frame that is filled up to the limit. What
//! differs from run to run (times, ids, ports) is kept as it was.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::BytesMut;
use protocol::frame::{Limits, decode};
use protocol::{Frame, RequestCode};
use rustix::process::Signal;

use crate::java::jars::{ClassPath, Jars};
use crate::java::server::{self, BrokerSpec, Encoding};
use crate::lab::{Lab, SEGMENT_BYTES};
use crate::process::{free_ports, local, run_ok};
use crate::recorder::{Passed, Recorder};
use crate::runner::until;

/// The requests of which a frame is kept, wherever they were sent.
const KEPT: [RequestCode; 19] = [
    RequestCode::SendMessageV2,
    RequestCode::SendBatchMessage,
    RequestCode::PullMessage,
    RequestCode::QueryConsumerOffset,
    RequestCode::UpdateConsumerOffset,
    RequestCode::UpdateAndCreateTopic,
    RequestCode::SearchOffsetByTimestamp,
    RequestCode::GetMaxOffset,
    RequestCode::GetMinOffset,
    RequestCode::HeartBeat,
    RequestCode::UnregisterClient,
    RequestCode::GetConsumerListByGroup,
    RequestCode::NotifyConsumerIdsChanged,
    RequestCode::RegisterBroker,
    RequestCode::UnregisterBroker,
    RequestCode::GetRouteinfoByTopic,
    RequestCode::GetBrokerClusterInfo,
    RequestCode::UpdateAndCreateSubscriptiongroup,
    RequestCode::QueryDataVersion,
];

/// A frame this long was filled on purpose.
const LARGEST_BYTES_MIN: usize = 30_000;

pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden")
}

/// Runs the capture in both encodings and writes the files anew.
pub async fn renew(lab: &mut Lab) -> anyhow::Result<()> {
    let mut files = BTreeMap::new();
    for encoding in [Encoding::Json, Encoding::Binary] {
        let passed = capture(lab, encoding).await?;
        name_frames(&passed, encoding, &mut files)?;
    }
    let _ = std::fs::remove_dir_all(dir());
    std::fs::create_dir_all(dir())?;
    for (name, bytes) in &files {
        std::fs::write(dir().join(name), bytes)?;
    }
    println!("{} frames", files.len());
    Ok(())
}

/// Everything that passed between the client, the broker and the name server.
async fn capture(lab: &mut Lab, encoding: Encoding) -> anyhow::Result<Vec<Passed>> {
    const CAPTURE_SECONDS_MAX: u64 = 120;
    const REGISTER_AGAIN_SECONDS_MAX: u64 = 90;
    let jars = lab.jars().await?;
    let names = server::start_name_server(
        &jars,
        &lab.fresh_dir("golden-namesrv")?,
        local(free_ports(1)?),
        encoding,
    )
    .await?;
    let to_names = local(free_ports(1)?);
    let names_recorder = Recorder::start(to_names, names.address).await?;
    // The route names an address at which the recorder stands in front of the broker.
    let spec = BrokerSpec {
        name: "broker-golden".to_owned(),
        name_servers: vec![to_names.to_string()],
        port: server::broker_port()?,
        advertised: Ipv4Addr::new(127, 0, 0, 2),
        dir: lab.fresh_dir("golden-broker")?,
        segment_bytes: SEGMENT_BYTES,
        encoding,
        flush_sync: false,
        ask_before_register: true,
        extra: String::new(),
    };
    let to_broker = SocketAddr::from((spec.advertised, spec.port));
    let broker_recorder = Recorder::start(to_broker, local(spec.port)).await?;
    let mut broker = server::start_broker(&jars, &spec).await?;
    let capture = client(&jars, lab, encoding, to_names, to_broker)?;
    run_ok(capture, Duration::from_secs(CAPTURE_SECONDS_MAX)).await?;
    let limit = Duration::from_secs(REGISTER_AGAIN_SECONDS_MAX);
    until("the broker asks by data version", limit, async || {
        let asked = RequestCode::QueryDataVersion.number();
        let passed = names_recorder.passed();
        let seen = passed
            .iter()
            .filter_map(|p| parse(&p.bytes).ok())
            .any(|f| f.code == asked);
        ensure!(seen, "{} frames, none of them", passed.len());
        Ok(())
    })
    .await?;
    broker.signal(Signal::TERM);
    broker.ended(Duration::from_secs(30)).await?;
    let mut passed = broker_recorder.passed();
    let connections = passed.iter().map(|p| p.connection + 1).max().unwrap_or(0);
    passed.extend(names_recorder.passed().into_iter().map(|p| Passed {
        connection: p.connection + connections,
        ..p
    }));
    Ok(passed)
}

fn client(
    jars: &Jars,
    lab: &mut Lab,
    encoding: Encoding,
    names: SocketAddr,
    broker: SocketAddr,
) -> anyhow::Result<tokio::process::Command> {
    let home = lab.fresh_dir("golden-client")?;
    let class_path = jars.class_path(ClassPath::Server);
    let mut command = crate::java::command(&class_path, &home, 256);
    command
        .arg(encoding.option())
        .arg("dev.gantry.e2e.Capture")
        .args([names.to_string(), broker.to_string()]);
    Ok(command)
}

/// Pairs requests with their answers and gives the first of each sort its file's name.
fn name_frames(
    passed: &[Passed],
    encoding: Encoding,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> anyhow::Result<()> {
    let suffix = match encoding {
        Encoding::Json => "json",
        Encoding::Binary => "binary",
    };
    for (at, request) in passed.iter().enumerate() {
        let frame = parse(&request.bytes)?;
        let code = RequestCode::from_number(frame.code).filter(|code| KEPT.contains(code));
        let Some(code) = code.filter(|_| !frame.is_response()) else {
            continue;
        };
        let later = passed.get(at + 1..).unwrap_or_default();
        let answer = later.iter().find(|p| {
            p.connection == request.connection
                && p.from_client != request.from_client
                && parse(&p.bytes).is_ok_and(|f| f.is_response() && f.opaque == frame.opaque)
        });
        let answer_code = match answer {
            Some(answer) => parse(&answer.bytes)?.code,
            None => 0,
        };
        let mut variant = String::new();
        let long = request.bytes.len() > LARGEST_BYTES_MIN;
        match (long, answer_code) {
            // What was refused for its size says nothing that the largest one does not say.
            (true, 1..) => continue,
            (true, _) => variant.push_str("-largest"),
            (false, 0) => {}
            (false, code) => variant = format!("-{code}"),
        }
        let name = code.java_name().to_lowercase();
        let stem = format!("{}-{name}{variant}", frame.code);
        let file = format!("{stem}.request.{suffix}.bin");
        if files.contains_key(&file) {
            continue;
        }
        files.insert(file, request.bytes.clone());
        if let Some(answer) = answer {
            files.insert(
                format!("{stem}.response.{suffix}.bin"),
                answer.bytes.clone(),
            );
        }
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> anyhow::Result<Frame> {
    let mut buffer = BytesMut::from(bytes);
    let frame = decode(&mut buffer, &Limits::default())?.context("less than a frame")?;
    ensure!(buffer.is_empty(), "more than a frame");
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::{self, encode};

    fn goldens() -> Vec<(String, Vec<u8>)> {
        let mut goldens: Vec<(String, Vec<u8>)> = std::fs::read_dir(dir())
            .expect("testdata/golden")
            .map(|entry| {
                let path = entry.expect("an entry").path();
                let name = path
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                (name, std::fs::read(&path).expect("a golden frame"))
            })
            .collect();
        goldens.sort();
        goldens
    }

    #[test]
    fn every_golden_frame_means_the_same_after_a_round_trip() {
        let goldens = goldens();
        assert!(goldens.len() > 60, "only {} golden frames", goldens.len());
        for (name, bytes) in goldens {
            let frame = parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let mut again = BytesMut::new();
            encode(&frame, &mut again);
            let again = parse(&again).unwrap_or_else(|e| panic!("{name}, written again: {e:#}"));
            assert_eq!(frame, again, "{name}");
        }
    }

    #[test]
    fn every_golden_frame_is_what_its_name_says() {
        for (name, bytes) in goldens() {
            let frame = parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            let binary = frame.encoding == frame::Encoding::Binary;
            assert_eq!(name.contains(".binary."), binary, "{name}");
            assert_eq!(name.contains(".response."), frame.is_response(), "{name}");
            if !frame.is_response() {
                assert!(
                    name.starts_with(&format!("{}-", frame.code)),
                    "{name}: {}",
                    frame.code
                );
            }
        }
    }

    #[test]
    fn every_kept_request_was_captured_in_both_encodings() {
        let goldens = goldens();
        for code in KEPT {
            for encoding in ["json", "binary"] {
                let found = goldens.iter().any(|(name, _)| {
                    name.starts_with(&format!("{}-", code.number()))
                        && name.ends_with(&format!(".request.{encoding}.bin"))
                });
                assert!(found, "{code:?} in {encoding}");
            }
        }
    }
}
