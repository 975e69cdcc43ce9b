//! The one binary. Every part of Gantry is a sub-command; this file is their list.

mod admin;
mod command;
mod log;
#[cfg(test)]
mod memmove;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use net::client::CallError;
use tokio_util::sync::CancellationToken;

use command::{
    bench, broker, cluster, crds, group, message, namesrv, operator, standalone, store, topic,
};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GANTRY_COMMIT"), ")");

const EXIT_CODES: &str = "\
The commands topic, group, message and cluster speak RocketMQ's admin protocol: they work on a
cluster of Java brokers too.

Exit codes: 0 done, 1 refused or not found, 2 wrong usage, 3 nobody can be reached.";

/// That of musl takes a lock for each call, and its groups go back to the kernel at once.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Kubernetes-native message broker for RocketMQ clients.
#[derive(Debug, Parser)]
#[command(version = VERSION, propagate_version = true, after_help = EXIT_CODES)]
struct Arguments {
    /// How log lines are written to standard error.
    #[arg(
        long,
        global = true,
        value_enum,
        env = "GANTRY_LOG_FORMAT",
        default_value_t = log::Format::Text
    )]
    log: log::Format,
    /// What is logged: a level, or `target=level,...`.
    #[arg(long, global = true, env = "GANTRY_LOG", default_value = "info")]
    log_level: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve routes: which broker has which queues.
    Namesrv(namesrv::Arguments),
    /// Serve messages.
    Broker(broker::Arguments),
    /// Reconcile BrokerCluster, Topic and ConsumerGroup resources.
    Operator(operator::Arguments),
    /// Name server and broker in one process, on a local directory.
    Standalone(standalone::Arguments),
    /// Print the custom resource definitions.
    Crds,
    /// Look at topics, create and delete them.
    #[command(subcommand)]
    Topic(topic::Command),
    /// Look at consumer groups, and send them elsewhere.
    #[command(subcommand)]
    Group(group::Command),
    /// Send messages and find them.
    #[command(subcommand)]
    Message(message::Command),
    /// Look at brokers.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Measure the machine, and any server that speaks the protocol.
    #[command(subcommand)]
    Bench(bench::Command),
    /// Work on a data directory that no broker has open.
    #[command(subcommand)]
    Store(store::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = log::start(arguments.log, &arguments.log_level) {
        eprintln!("gantry: --log-level {}: {error}", arguments.log_level);
        return ExitCode::from(2);
    }
    // Two crates use rustls; both take what the process has installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match arguments.command {
        Command::Namesrv(arguments) => namesrv::run(arguments, stopped_by_signal()).await,
        Command::Broker(arguments) => broker::run(arguments, stopped_by_signal()).await,
        Command::Operator(arguments) => operator::run(arguments, stopped_by_signal()).await,
        Command::Standalone(arguments) => standalone::run(arguments, stopped_by_signal()).await,
        Command::Crds => crds::run(),
        Command::Topic(command) => topic::run(command).await,
        Command::Group(command) => group::run(command).await,
        Command::Cluster(command) => cluster::run(command).await,
        Command::Message(command) => message::run(command).await,
        Command::Bench(command) => bench::run(command).await,
        Command::Store(command) => store::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry: {error:#}");
            let unreachable = error.chain().any(|cause| {
                let call = cause.downcast_ref::<CallError>();
                matches!(
                    call,
                    Some(CallError::Io { .. } | CallError::TimedOut { .. })
                )
            });
            ExitCode::from(if unreachable { 3 } else { 1 })
        }
    }
}

/// Cancelled by SIGTERM or SIGINT; a second one, or too long a stop, ends the process.
fn stopped_by_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        let (Ok(mut term), Ok(mut int)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return;
        };
        for last in [false, true] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                () = tokio::time::sleep(::broker::process::STOP_MAX), if last => {}
            }
            if last {
                eprintln!("gantry: not stopped in order");
                std::process::exit(1);
            }
            tracing::info!("stopping");
            cancelled.cancel();
        }
    });
    stop
}
