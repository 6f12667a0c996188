//! Reading the state directory: the definitions of pools kept there, the journal and the notes. What cannot
//! be used is told, and looked at again.

use std::path::PathBuf;
use std::sync::Arc;

use stowage_host::{blocking, durable};
use stowage_model::error::Context;
use stowage_model::volumes::{Finding, Severity, Trouble};
use stowage_model::{Error, Result};
use stowage_pool::Pool;

use crate::kinds;
use crate::places::lying;
use crate::recover::tidy::tidy_beside;
use crate::state::Node;
use crate::state::definitions::{group_file, kept, seen_before, unusable};
use crate::state::unread::Undefined;
use stowage_model::PoolConfig;

/// Look at everything in the state directory, and open the pools that are kept there and are
/// not open yet.
pub(crate) async fn look_at_state(node: &Arc<Node>, first: bool) -> Vec<Arc<dyn Pool>> {
    let me = Arc::clone(node);
    let (mut kept, mut undefined, mut findings) = blocking(move || read_state(&me, first)).await;
    let is_known = |name: &str| node.definitions().knows(name);
    // One that is configured as well is as the configuration says.
    kept.retain(|config| !is_known(config.name.as_str()));
    let lying = lying(node, &kept).await;
    let mut opened = Vec::new();
    for (config, real) in kept.into_iter().zip(lying) {
        match open_kept(node, &config, real).await {
            Ok(pool) => opened.push(pool),
            Err(e) => {
                let pool = config.name.to_string();
                let path = node.pools_dir().join(format!("{pool}.json"));
                undefined.push(Undefined {
                    why: unusable(&path).caused_by(e),
                    pool: Some(pool),
                });
            }
        }
    }
    findings.extend(undefined.iter().map(|u| definition_finding(node, u)));
    // One that is served is as it was when its definition could be read.
    undefined.retain(|u| u.pool.as_deref().is_none_or(|pool| !is_known(pool)));
    node.unread().undefined(undefined);
    node.notices().of_state(findings);
    opened
}

/// Look at the state directory again, where something in it could not be used.
pub(crate) async fn state_again(node: &Arc<Node>) {
    if node.notices().is_state_due() {
        let lacked = node.unread().lacks_definitions();
        // They are read with the others that are due.
        look_at_state(node, false).await;
        if lacked && !node.unread().lacks_definitions() {
            // Nothing is read where a definition was removed.
            tidy_beside(node);
        }
    }
}

fn read_state(node: &Node, first: bool) -> (Vec<PoolConfig>, Vec<Undefined>, Vec<Finding>) {
    let mut wrong = Vec::new();
    let dir = node.pools_dir();
    let made = durable::create_dir(&dir)
        .or_internal(|| format!("failed to make {}", dir.display()))
        .and_then(|()| node.journal().prepare());
    wrong.extend(made.err());
    if first {
        for dir in [&dir, &node.state_dir().join("attachments")] {
            if let Err(e) = durable::sweep(dir)
                && dir.exists()
            {
                let what = format!("failed to clean {}", dir.display());
                wrong.push(Error::internal(what).caused_by(e));
            }
        }
    }
    match node.journal().load() {
        Ok((_, unread)) => wrong.extend(unread.into_iter().map(|path| {
            Error::internal(format!(
                "the journal entry {path} cannot be read; it is left alone, and its volume is \
                 taken to be as its pool says"
            ))
        })),
        Err(e) => wrong.push(e),
    }
    wrong.extend(node.attachments().load().err());
    for (path, why) in node.attachments().unread() {
        wrong.push(Error::internal(format!(
            "the note {} of where a volume is in use cannot be read: {why}",
            path.display()
        )));
    }
    let (kept, undefined) = kept(&dir);
    let findings = wrong.iter().map(|e| state_finding(node, e)).collect();
    (kept, undefined, findings)
}

/// Open a pool that is kept, and lies there if that is known yet.
async fn open_kept(
    node: &Arc<Node>,
    config: &PoolConfig,
    real: Option<PathBuf>,
) -> Result<Arc<dyn Pool>> {
    let reserved = node
        .definitions()
        .reserve(config, || node.is_open(&config.name))?;
    if let Some(real) = real {
        node.definitions()
            .lies_at(&config.name, real, node.state_dir())?;
    }
    let (me, config) = (Arc::clone(node), config.clone());
    let pool = blocking(move || open(&me, &config)).await?;
    reserved.keep();
    Ok(pool)
}

pub(crate) fn open(node: &Node, config: &PoolConfig) -> Result<Arc<dyn Pool>> {
    let first = !seen_before(&node.pools_dir(), &config.name);
    let pool = kinds::open(
        config,
        node.runner(),
        group_file(&node.pools_dir(), &config.name),
        first,
    )?;
    node.unread()
        .coming(pool.name(), "it is being read".to_owned());
    node.enter(&pool);
    Ok(pool)
}

fn definition_finding(node: &Node, undefined: &Undefined) -> Finding {
    let state = || node.state_dir().display().to_string();
    Finding {
        trouble: Trouble::PoolMissing,
        subject: undefined.pool.clone().unwrap_or_else(state),
        ..state_finding(node, &undefined.why)
    }
}

fn state_finding(node: &Node, e: &Error) -> Finding {
    Finding {
        severity: Severity::Error,
        trouble: Trouble::Leftover,
        subject: node.state_dir().display().to_string(),
        what: e.chain(),
        mend: "mend or remove what is named; it is tried again within a minute".to_owned(),
    }
}
