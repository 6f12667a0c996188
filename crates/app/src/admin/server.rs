//! Answering people's requests with the node's own traits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use stowage_host::Repeat;
use stowage_model::id::Role;
use stowage_model::params::{ClassParams, Map, Origin, SnapshotParams};
use stowage_model::request::{SizeRange, Source};
use stowage_model::volume_request::Wanted;
use stowage_model::{
    Bytes, Error, Holder, Id, LimitsChange, MountRequest, Mounts, Name, PoolName, Pools, Result,
    SnapshotRequest, VolumeRequest, Volumes,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::protocol::{Answer, Held, MAX_REQUEST, Request, SnapshotView, VolumeCreate, VolumeView};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(200);

/// What the node does for people: traits, and nothing behind them.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) volumes: Arc<dyn Volumes>,
    pub(crate) mounts: Arc<dyn Mounts>,
    pub(crate) pools: Arc<dyn Pools>,
}

/// Serve until told to stop.
pub(crate) async fn serve(listener: UnixListener, node: Node, stop: CancellationToken) {
    let mut repeat = Repeat::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let node = node.clone();
                tokio::spawn(async move {
                    if let Err(e) = answer(stream, node).await {
                        tracing::debug!(error = format!("{e:#}"), "admin connection ended");
                    }
                });
            }
            Err(e) => {
                if repeat.is_due(&e.to_string()) {
                    tracing::warn!(error = %e, "admin connection not accepted");
                }
                tokio::time::sleep(TICK).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, node: Node) -> anyhow::Result<()> {
    let root = stream
        .peer_cred()
        .context("failed to ask who connects")?
        .uid()
        == 0;
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_REQUEST)?;
    BufReader::new(read.take(limit))
        .read_until(b'\n', &mut line)
        .await?;
    let mut gaps = Vec::new();
    let outcome = if !root {
        Err(Error::denied(
            "only root may give orders to the daemon; use sudo",
        ))
    } else if line.len() >= MAX_REQUEST && !line.ends_with(b"\n") {
        Err(Error::invalid(format!(
            "the request is longer than {}",
            Bytes(limit)
        )))
    } else {
        match serde_json::from_slice::<Request>(&line) {
            Ok(request) => {
                let mut work = Box::pin(carry_out(&node, request, &mut gaps));
                loop {
                    tokio::select! {
                        outcome = &mut work => break outcome,
                        () = tokio::time::sleep(TICK) => {
                            send(&mut write, &Answer::Progress(node.volumes.jobs())).await?;
                        }
                    }
                }
            }
            Err(e) => Err(Error::invalid(
                "the request is malformed; client and daemon may differ \
                in version",
            )
            .caused_by(e)),
        }
    };
    for gap in gaps {
        let told = format!("not all is listed: {}", gap.chain());
        send(&mut write, &Answer::Warning(told)).await?;
    }
    match outcome {
        Ok(json) => send_text(&mut write, done(&json)).await,
        Err(e) => {
            let (kind, message) = (e.kind().as_str().to_owned(), e.chain());
            send(&mut write, &Answer::Failed { kind, message }).await
        }
    }
}

/// [`Answer::Done`] of what is JSON already: a tree of a long list takes several times its memory.
fn done(json: &str) -> String {
    format!("{{\"done\":{json}}}")
}

async fn send(write: &mut tokio::net::unix::OwnedWriteHalf, answer: &Answer) -> anyhow::Result<()> {
    send_text(write, serde_json::to_string(answer)?).await
}

async fn send_text(
    write: &mut tokio::net::unix::OwnedWriteHalf,
    mut text: String,
) -> anyhow::Result<()> {
    text.push('\n');
    write.write_all(text.as_bytes()).await?;
    Ok(())
}

/// The result of a request, as JSON.
fn value(of: impl Serialize) -> Result<String> {
    serde_json::to_string(&of)
        .map_err(|e| Error::internal("failed to write the answer").caused_by(e))
}

/// `gaps` gets what may hold more than is listed.
async fn carry_out(node: &Node, request: Request, gaps: &mut Vec<Error>) -> Result<String> {
    match request {
        Request::PoolList => value(node.volumes.pools().await?),
        Request::PoolCreate { pool, disks, force } => {
            value(node.pools.create_pool(pool, &disks, force).await?)
        }
        Request::PoolExtend { name, disks, force } => value(
            node.pools
                .extend_pool(&PoolName::new(name)?, &disks, force)
                .await?,
        ),
        Request::VolumeCreate(want) => {
            let request = volume_request(node, want).await?;
            value(VolumeView::from(&node.volumes.create(request).await?))
        }
        Request::VolumeList => {
            let known = node.volumes.volumes().await;
            gaps.extend(known.gaps);
            value(known.all.iter().map(VolumeView::from).collect::<Vec<_>>())
        }
        Request::VolumeShow { name } => {
            let id = volume_called(node, &name).await?;
            value(show(node, &id).await?)
        }
        Request::VolumeGrow { name, size } => {
            let id = volume_called(node, &name).await?;
            let grown = node.volumes.grow(&id, SizeRange::new(size, None)?).await?;
            // An orchestrator is told that its volume is large enough; a person who wanted it
            // smaller must hear that it is not.
            if grown.was_larger {
                return Err(Error::out_of_range(format!(
                    "volume {name:?} is {} already and volumes never shrink; name a larger size, \
                     or copy what is on it to a smaller volume",
                    grown.size
                )));
            }
            node.mounts.expand_mounted(&id).await?;
            value(show(node, &id).await?)
        }
        Request::VolumeLimit { name, limits } => {
            let change = LimitsChange::from_map(&limits.into_iter().collect())?;
            let id = volume_called(node, &name).await?;
            value(VolumeView::from(&node.volumes.modify(&id, change).await?))
        }
        Request::VolumeMount {
            name,
            target,
            options,
            read_only,
            cgroup,
            holder,
        } => {
            let id = volume_called(node, &name).await?;
            let target = absolute(&target)?;
            let want = MountRequest {
                id: id.clone(),
                target,
                flags: options,
                read_only,
                cgroup,
                holder: holder.map(Holder::new).transpose()?,
            };
            node.mounts.mount(want).await?;
            value(show(node, &id).await?)
        }
        Request::VolumeUnmount {
            name,
            target,
            holder,
        } => {
            let holder = holder.map(Holder::new).transpose()?;
            let target = absolute(&target)?;
            let id = match name {
                Some(name) => volume_called(node, &name).await?,
                None => node.mounts.volume_at(&target).await.ok_or_else(|| {
                    Error::not_found(format!(
                        "no volume is mounted at {}; give the path at which it is mounted, which \
                         `stowage volume list` shows as USED AT",
                        target.display()
                    ))
                })?,
            };
            node.mounts.unmount(&id, &target, holder.as_ref()).await?;
            value(show(node, &id).await?)
        }
        Request::VolumeDelete { name } => {
            let id = volume_called(node, &name).await?;
            node.volumes.delete(&id).await.and_then(value)
        }
        Request::SnapshotCreate {
            volume,
            name,
            read_only,
            parameters,
        } => {
            let class = SnapshotParams::parse(&parameters.into_iter().collect())?;
            let want = SnapshotRequest {
                name: Name::new(name)?,
                source: volume_called(node, &volume).await?,
                read_only: read_only || class.read_only,
                growth: class.growth,
            };
            value(SnapshotView::from(&node.volumes.snapshot(want).await?))
        }
        Request::SnapshotList => {
            let known = node.volumes.snapshots().await;
            gaps.extend(known.gaps);
            value(known.all.iter().map(SnapshotView::from).collect::<Vec<_>>())
        }
        Request::SnapshotDelete { name } => {
            let id = snapshot_called(node, &name).await?;
            node.volumes.delete_snapshot(&id).await.and_then(value)
        }
        Request::Jobs => value(node.volumes.jobs()),
        Request::Doctor => value(node.volumes.findings().await?),
    }
}

async fn volume_called(node: &Node, text: &str) -> Result<Id> {
    node.volumes.find(Role::Volume, text).await
}

async fn snapshot_called(node: &Node, text: &str) -> Result<Id> {
    node.volumes.find(Role::Snapshot, text).await
}

async fn show(node: &Node, id: &Id) -> Result<VolumeView> {
    let mut view = VolumeView::from(&node.volumes.volume(id).await?);
    for mounted in node.mounts.mounted(id).await? {
        view.holders
            .extend(mounted.holders.into_iter().map(|(holder, times)| Held {
                target: mounted.target.clone(),
                holder: holder.into(),
                times,
            }));
    }
    Ok(view)
}

fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Error::invalid(format!(
        "{} is not an absolute path",
        path.display()
    )))
}

async fn volume_request(node: &Node, want: VolumeCreate) -> Result<VolumeRequest> {
    let parameters: Map = want.parameters.into_iter().collect();
    let class = ClassParams::parse(&parameters, &Map::new(), Origin::Class)?;
    let source = match (&want.from_snapshot, &want.from_volume) {
        (Some(name), None) => Some(Source::Snapshot(snapshot_called(node, name).await?)),
        (None, Some(name)) => Some(Source::Volume(volume_called(node, name).await?)),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "name a snapshot or a volume as the source, not both",
            ));
        }
    };
    let usage = match (&source, want.block) {
        // A copy is used as its source was.
        (Some(_), _) => Wanted::AsSource,
        (None, true) => Wanted::Block,
        (None, false) => Wanted::Mount(class.fs),
    };
    if want.size.is_none() && source.is_none() {
        return Err(Error::invalid("give the volume a size, like 10Gi"));
    }
    Ok(VolumeRequest {
        name: Name::new(want.name)?,
        size: want.size,
        limit: None,
        usage,
        mount_flags: Vec::new(),
        placement: class.placement,
        layout: class.layout,
        provisioning: class.provisioning,
        mkfs: class.mkfs_options,
        limits: class.limits,
        source,
        read_only: want.read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_told_as_the_client_reads_it() {
        let text = done(&value(["a", "\"b\n"]).unwrap());
        let read: Answer = serde_json::from_str(&text).unwrap();
        let Answer::Done(told) = read else {
            panic!("{text}");
        };
        assert_eq!(told, serde_json::json!(["a", "\"b\n"]));
    }
}
