//! `gantry bench limits`: what the machine gives at best, to hold figures against.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the files of the disk's probes lie, for as long as they run.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// How long each probe runs.
    #[arg(long, default_value_t = 500)]
    probe_ms: u64,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = output::Format::Table)]
    output: output::Format,
}

const REQUEST_BYTES: usize = 1_200;
const ANSWER_BYTES: usize = 200;
const WINDOW: usize = 64;
const STREAM_BYTES: usize = 16 * REQUEST_BYTES;
const COPY_BYTES: usize = 64 << 20;
const APPEND_BYTES: usize = 4_096;
const WRITE_BYTES: usize = 1 << 20;
const FILE_BYTES_MAX: u64 = 256 << 20;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let time = Duration::from_millis(arguments.probe_ms.max(1));
    let (appends, written) = on_disk(arguments, time)?;
    let echo = echo(1, time)?;
    let pipelined = echo_of_window(time)?;
    let report = json!({
        "memcpyGiBPerSecond": memcpy(time),
        "echoPerSecond": echo.0,
        "echoP99Micros": echo.1,
        "pipelinedEchoPerSecond": pipelined,
        "streamGiBPerSecond": stream(time)?,
        "fdatasyncPerSecond": appends.0,
        "fdatasyncP99Micros": appends.1,
        "writeMiBPerSecond": written,
    });
    output::object(arguments.output, &report)
}

const LATENCY_SECONDS_MAX: u64 = 60;

/// Of nanoseconds.
fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(
        LATENCY_SECONDS_MAX * 1_000_000_000,
        3,
    )?)
}

fn memcpy(time: Duration) -> Value {
    let (from, mut to) = (vec![1_u8; COPY_BYTES], vec![0_u8; COPY_BYTES]);
    let (start, mut copied) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        copied += COPY_BYTES as u64;
    }
    per_second(copied as f64 / f64::from(1 << 30), start)
}

/// Two decimals are more than a probe repeats.
fn per_second(count: f64, since: Instant) -> Value {
    json!((count / since.elapsed().as_secs_f64() * 100.0).round() / 100.0)
}

/// A pair of sockets over loopback.
fn pair() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let theirs = listener.accept()?.0;
    ours.set_nodelay(true)?;
    theirs.set_nodelay(true)?;
    Ok((ours, theirs))
}

/// Answers every request with a read and a write of its own, until the other end closes.
fn answer(mut stream: TcpStream) {
    let mut bytes = [0; REQUEST_BYTES];
    while stream.read_exact(&mut bytes).is_ok() {
        if stream.write_all(&bytes[..ANSWER_BYTES]).is_err() {
            return;
        }
    }
}

/// One request at a time.
fn echo(window: usize, time: Duration) -> anyhow::Result<(Value, Value)> {
    let (mut ours, theirs) = pair()?;
    let server = thread::spawn(|| answer(theirs));
    let mut nanoseconds = latencies()?;
    let request = vec![7; REQUEST_BYTES * window];
    let mut answers = vec![0; ANSWER_BYTES * window];
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        let asked = Instant::now();
        ours.write_all(&request)?;
        ours.read_exact(&mut answers)?;
        nanoseconds.saturating_record(asked.elapsed().as_nanos() as u64);
        count += window;
    }
    let rate = per_second(count as f64, start);
    drop(ours);
    let _ = server.join();
    Ok((
        rate,
        json!(nanoseconds.value_at_quantile(0.99) as f64 / 1e3),
    ))
}

/// [`WINDOW`] requests at a time, each answered for itself: a server that batches nothing.
fn echo_of_window(time: Duration) -> anyhow::Result<Value> {
    Ok(echo(WINDOW, time)?.0)
}

fn stream(time: Duration) -> anyhow::Result<Value> {
    let (mut ours, mut theirs) = pair()?;
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; 4 * STREAM_BYTES];
        while theirs.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    let bytes = vec![7; STREAM_BYTES];
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        ours.write_all(&bytes)?;
        count += STREAM_BYTES as u64;
    }
    drop(ours);
    let _ = reader.join();
    Ok(per_second(count as f64 / f64::from(1 << 30), start))
}

type Synced = (Value, Value);

/// Appends that are synced one by one, and writes that are synced at the end.
fn on_disk(arguments: &Arguments, time: Duration) -> anyhow::Result<(Synced, Value)> {
    let path = arguments
        .dir
        .join(format!("bench-limits-{}", std::process::id()));
    let mut file = File::options().create_new(true).write(true).open(&path)?;
    let probed = appended(&mut file, time).and_then(|appends| {
        file.set_len(0)?;
        file.rewind()?;
        Ok((appends, written(&mut file, time)?))
    });
    std::fs::remove_file(&path)?;
    probed
}

fn appended(file: &mut File, time: Duration) -> anyhow::Result<Synced> {
    let mut nanoseconds = latencies()?;
    let start = Instant::now();
    while start.elapsed() < time {
        let begun = Instant::now();
        file.write_all(&[7; APPEND_BYTES])?;
        file.sync_data()?;
        nanoseconds.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    let rate = per_second(nanoseconds.len() as f64, start);
    Ok((
        rate,
        json!(nanoseconds.value_at_quantile(0.99) as f64 / 1e3),
    ))
}

fn written(file: &mut File, time: Duration) -> anyhow::Result<Value> {
    let (start, mut bytes) = (Instant::now(), 0_u64);
    while start.elapsed() < time && bytes < FILE_BYTES_MAX {
        file.write_all(&vec![7; WRITE_BYTES])?;
        bytes += WRITE_BYTES as u64;
    }
    file.sync_data()?;
    Ok(per_second(bytes as f64 / f64::from(1 << 20), start))
}
