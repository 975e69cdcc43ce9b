//! Opening what is on disk: the queues of the base, the index from its runs, the rest of it from
//! the log, and the log's end.
//!
//! A bad record above the durable position is the end of the log: all that follows is zeroed or
//! deleted and synced before anything is appended, since old records behind a cut would come back
//! to life once new ones reach up to them. Below it, it is corruption, and nothing is touched.

#![deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::record::Record;

use crate::adopted::Adopted;
use crate::base;
use crate::checkpoint::Checkpoint;
use crate::identity::Identity;
use crate::index::{Index, Recent};
use crate::run::{self, Run, Stretch};
use crate::scan::scan;
use crate::segment::Segments;
use crate::{OpenError, dispatch, fs};

const CUT_PROBE_BYTES: u64 = 64 << 10;

/// A store as its files tell it.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) segments: Segments,
    pub(crate) index: Index,
    pub(crate) runs: Vec<Arc<Run>>,
    pub(crate) end: u64,
    pub(crate) last_ms: i64,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) base_position: u64,
}

pub(crate) fn recover(dir: &Path, identity: &Identity) -> Result<Recovered, OpenError> {
    let mut checkpoint = Checkpoint::load(dir)?;
    let segments = Segments::open(dir, identity.segment_bytes, Adopted::load(dir)?)?;
    let base = base::load(dir)?.unwrap_or_default();
    if base.position < segments.start() {
        let (start, position) = (segments.start(), base.position);
        let text = format!("the log starts at {start}, but the base is of {position}");
        return Err(OpenError::Layout(text));
    }
    let index = Index::default();
    index.seed(&base.queues);
    let runs = load_runs(dir, &segments, &index)?;
    let Stretch {
        end: replay_from,
        mut last_ms,
        ..
    } = runs.last().map_or(
        Stretch {
            start: 0,
            end: segments.start(),
            last_ms: 0,
        },
        |run| run.stretch,
    );
    // A run or a base is written only of what has been synced.
    let durable = checkpoint.durable.max(replay_from).max(base.position);
    if durable > segments.limit() {
        let text = format!("the log ends at {}, before {durable}", segments.limit());
        return Err(OpenError::Layout(text));
    }
    let scanned = scan(&segments, replay_from, u64::MAX, &mut |record, size| {
        last_ms = last_ms.max(record.store_ms);
        index.keys.add(run::keys_of(record));
        replay(&index, record, size)
    })?;
    let end = scanned.end;
    if end < durable {
        let reason = scanned.bad.unwrap_or_else(|| "the log ends here".into());
        return Err(OpenError::Corrupt {
            position: end,
            reason,
        });
    }
    if !(checkpoint.clean && checkpoint.durable == end) {
        if cut(&segments, end)? {
            checkpoint.cuts += 1;
            checkpoint.cut_at = end;
            let reason = scanned.bad.unwrap_or_default();
            tracing::warn!(position = end, reason, "the log's torn end was cut off");
        }
        segments.rewrite(durable, end)?;
        // Recorded before anything is appended at this place.
        checkpoint.durable = end;
        checkpoint.clean = false;
        checkpoint.write(dir)?;
    }
    Ok(Recovered {
        segments,
        index,
        runs,
        end,
        last_ms,
        checkpoint,
        base_position: base.position,
    })
}

/// Adds a record to all its queues, or to none of them and says why.
fn replay(index: &Index, record: &Record<'_>, size: u32) -> Result<(), String> {
    let places = dispatch::places(record)?.into_iter();
    let queue = |(topic, queue, offset): (&str, _, _)| {
        let queue = index.get_or_create(&topic.into(), queue);
        queue.follows(offset).map(|()| (queue, offset))
    };
    let places: Vec<_> = places.map(queue).collect::<Result<_, _>>()?;
    let recent = Recent {
        entry: run::entry_of(record, size),
        store_ms: record.store_ms,
    };
    for (queue, offset) in places {
        queue.replay(offset, recent);
    }
    Ok(())
}

/// Makes everything from `end` on zero or gone, and durable so. Says whether data was there.
pub(crate) fn cut(segments: &Segments, end: u64) -> Result<bool, OpenError> {
    let mut found = false;
    let mut first_unused = end;
    if let Some(segment) = segments.at(end) {
        first_unused = segments.next_start(end);
        let from = end - segment.start;
        let to = segments.segment_bytes;
        let mut probe = vec![0; (to - from).min(CUT_PROBE_BYTES) as usize];
        segment.file.read_exact_at(&mut probe, from)?;
        found = probe.iter().any(|byte| *byte != 0);
        fs::zero_range(&segment.file, from, to)?;
        segment.file.sync_all()?;
    }
    segments.delete_from(first_unused)?;
    Ok(found)
}

/// Loads the chain of runs from the log's start on; a damaged or missing link is rebuilt.
fn load_runs(dir: &Path, segments: &Segments, index: &Index) -> Result<Vec<Arc<Run>>, OpenError> {
    let files = list_runs(&dir.join("gantry/index"))?;
    let mut runs = Vec::new();
    let mut at = segments.start();
    for (start, path) in &files {
        if *start < at {
            // Covered by a merged run, or of a deleted segment.
            fs::remove_file(path)?;
            continue;
        }
        while at < *start {
            let end = segments.next_start(at).min(*start);
            let name = dir.join(format!("gantry/index/{at:020}.run"));
            tracing::warn!(start = at, end, "an index run is missing and is rebuilt");
            run::rebuild(segments, &name, at, end)?;
            at = load_run(segments, index, &name, at, &mut runs)?
                .ok_or_else(|| OpenError::Damaged(name.display().to_string()))?;
        }
        if let Some(end) = load_run(segments, index, path, at, &mut runs)? {
            at = end;
        } else {
            tracing::warn!(path = %path.display(), "an index run is damaged and is rebuilt");
            fs::remove_file(path)?;
        }
    }
    Ok(runs)
}

/// Where the run at `path` ends, if it is intact and fits.
fn load_run(
    segments: &Segments,
    index: &Index,
    path: &Path,
    at: u64,
    runs: &mut Vec<Arc<Run>>,
) -> Result<Option<u64>, OpenError> {
    let Some((run, parts)) = Run::open(path)? else {
        return Ok(None);
    };
    let Stretch { start, end, .. } = run.stretch;
    if start != at || end <= start {
        return Ok(None);
    }
    if end > segments.limit() {
        let text = format!("the log ends at {}, before {end}", segments.limit());
        return Err(OpenError::Layout(text));
    }
    let run = Arc::new(run);
    if let Err(reason) = index.load(&run, &parts) {
        tracing::warn!(path = %path.display(), reason, "an index run does not fit");
        return Ok(None);
    }
    runs.push(run);
    Ok(Some(end))
}

/// Start and path of every run, a segment's merged one before its parts; removes unfinished ones.
fn list_runs(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut files = Vec::new();
    for (path, _) in fs::list(dir)? {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let start = name
            .strip_suffix(".run")
            .or_else(|| name.strip_suffix(".index"))
            .and_then(|digits| digits.parse::<u64>().ok());
        match start {
            Some(start) => files.push((start, path)),
            None => fs::remove_file(&path)?,
        }
    }
    // "index" sorts before "run".
    files.sort();
    Ok(files)
}
