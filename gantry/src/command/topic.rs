//! `gantry topic`

use std::io::Write as _;

use super::route;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Where a topic's queues are.
    Get {
        topic: String,
        /// `host:port` of a name server.
        #[arg(long, env = "NAMESRV_ADDR", default_value = "127.0.0.1:9876")]
        name_server: String,
    },
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    let Command::Get { topic, name_server } = command;
    let route = route(&name_server, &topic).await?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:<24} {:<32} {:>5} {:>6} {:>5}",
        "BROKER", "MASTER", "READ", "WRITE", "PERM"
    )?;
    for queues in &route.queue_datas {
        let broker = route
            .broker_datas
            .iter()
            .find(|b| b.broker_name == queues.broker_name);
        let master = broker
            .and_then(|b| b.broker_addrs.get(&0))
            .map_or("-", String::as_str);
        writeln!(
            out,
            "{:<24} {:<32} {:>5} {:>6} {:>5}",
            queues.broker_name,
            master,
            queues.read_queue_nums,
            queues.write_queue_nums,
            queues.perm
        )?;
    }
    Ok(())
}
