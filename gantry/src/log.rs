//! The log of a process: lines of text or of JSON on standard error, whose level may be changed
//! while it runs.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, reload};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Begins the log, and lets the operations ports change what is logged.
pub(crate) fn start(format: Format, level: &str) -> Result<(), String> {
    let (levels, handle) = reload::Layer::new(filter(level)?);
    let registry = tracing_subscriber::registry().with(levels);
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        Format::Text => registry.with(lines).init(),
        Format::Json => registry.with(lines.json()).init(),
    }
    let level = Mutex::new(level.to_owned());
    net::http::serve_log_level(Box::new(move |wanted| {
        let mut level = level.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wanted) = wanted {
            let filter = filter(wanted)?;
            handle.reload(filter).map_err(|error| error.to_string())?;
            tracing::warn!(from = *level, to = wanted, "the log level is changed");
            wanted.clone_into(&mut level);
        }
        Ok(level.clone())
    }));
    Ok(())
}

/// A level, or `target=level` with commas between. A misspelt level is none: taken as a target it
/// would silence all others.
fn filter(text: &str) -> Result<EnvFilter, String> {
    for part in text.split(',') {
        // LevelFilter takes nothing for ERROR.
        let is_level = !part.trim().is_empty() && part.trim().parse::<LevelFilter>().is_ok();
        if !part.contains(['=', '[']) && !is_level {
            return Err(format!(
                "{part:?} is no level: off, error, warn, info, debug, trace, or target=level"
            ));
        }
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn what_is_logged_is_a_level_or_levels_of_targets() {
        for (text, good) in [
            ("info", true),
            ("WARN", true),
            ("off", true),
            ("info,broker=debug,store::log=trace", true),
            ("debgu", false),
            ("", false),
            ("info,", false),
            ("broker=loud", false),
        ] {
            assert_eq!(filter(text).is_ok(), good, "{text:?}");
        }
    }
}
