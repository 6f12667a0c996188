//! Every metric the daemon tells, its unit and its labels. Gathered at each scrape from what the
//! node knows, so that an idle daemon does nothing. Names are an interface: add, do not rename.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;
use stowage_model::volumes::{Severity, Volumes};
use stowage_node::Local;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VolumeLabels {
    pool: String,
    volume: String,
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SeverityLabels {
    severity: &'static str,
}

type Bytes<L> = Family<L, Gauge<i64>>;
type Percent = Family<PoolLabels, Gauge<f64, AtomicU64>>;

#[derive(Default)]
struct Pools {
    total: Bytes<PoolLabels>,
    free: Bytes<PoolLabels>,
    promised: Bytes<PoolLabels>,
    up: Family<PoolLabels, Gauge>,
    age: Family<PoolLabels, Gauge>,
    volumes: Family<PoolLabels, Gauge>,
    snapshots: Family<PoolLabels, Gauge>,
    data: Percent,
    metadata: Percent,
}

impl Pools {
    fn register(&self, registry: &mut Registry) {
        let r = registry;
        let bytes = || Unit::Bytes;
        r.register_with_unit(
            "pool_total",
            "Space of the pool",
            bytes(),
            self.total.clone(),
        );
        r.register_with_unit(
            "pool_free",
            "Space for new volumes",
            bytes(),
            self.free.clone(),
        );
        let help = "Sizes promised to volumes";
        r.register_with_unit("pool_promised", help, bytes(), self.promised.clone());
        r.register("pool_up", "1 when the pool can be used", self.up.clone());
        let help = "Age of the figures of a pool that does not answer, else 0";
        r.register_with_unit("pool_age", help, Unit::Seconds, self.age.clone());
        r.register("pool_volumes", "Volumes in the pool", self.volumes.clone());
        r.register(
            "pool_snapshots",
            "Snapshots in the pool",
            self.snapshots.clone(),
        );
        r.register(
            "pool_data_percent",
            "Data space in use, percent",
            self.data.clone(),
        );
        let help = "Thin metadata in use, percent";
        r.register("pool_metadata_percent", help, self.metadata.clone());
    }
}

/// The metrics page.
///
/// # Errors
/// When the pools cannot be asked.
pub(crate) async fn page(local: &Local) -> anyhow::Result<String> {
    let mut registry = Registry::with_prefix("stowage");
    let pools = Pools::default();
    pools.register(&mut registry);
    // At once, since each may take as long as a scraper waits.
    let (told, found) = tokio::join!(local.pools(), local.findings());
    for pool in told? {
        let labels = PoolLabels {
            pool: pool.name.to_string(),
            kind: pool.kind.to_string(),
        };
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        pools.total.get_or_create(&labels).set(whole(pool.total.0));
        pools.free.get_or_create(&labels).set(whole(pool.free.0));
        pools
            .promised
            .get_or_create(&labels)
            .set(whole(pool.promised.0));
        pools
            .up
            .get_or_create(&labels)
            .set(i64::from(pool.problem.is_none()));
        pools
            .age
            .get_or_create(&labels)
            .set(whole(pool.age.unwrap_or_default()));
        pools
            .volumes
            .get_or_create(&labels)
            .set(count(pool.volumes));
        pools
            .snapshots
            .get_or_create(&labels)
            .set(count(pool.snapshots));
        if let Some(percent) = pool.data_percent {
            pools.data.get_or_create(&labels).set(percent.into());
        }
        if let Some(percent) = pool.metadata_percent {
            pools.metadata.get_or_create(&labels).set(percent.into());
        }
    }
    let sizes = Bytes::<VolumeLabels>::default();
    registry.register_with_unit(
        "volume_size",
        "Size of a volume",
        Unit::Bytes,
        sizes.clone(),
    );
    for volume in local.volumes_known().all {
        let labels = VolumeLabels {
            pool: volume.pool.to_string(),
            volume: volume.record.id.to_string(),
            name: volume.record.name.to_string(),
        };
        sizes
            .get_or_create(&labels)
            .set(i64::try_from(volume.size.0).unwrap_or(i64::MAX));
    }
    let findings = Family::<SeverityLabels, Gauge>::default();
    registry.register(
        "findings",
        "Things wrong, see `stowage doctor`",
        findings.clone(),
    );
    let found = found?;
    for (severity, word) in [(Severity::Warning, "warning"), (Severity::Error, "error")] {
        let count = found.iter().filter(|f| f.severity == severity).count();
        let labels = SeverityLabels { severity: word };
        findings
            .get_or_create(&labels)
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let jobs = Gauge::<i64>::default();
    registry.register("jobs", "Copies and wipes under way", jobs.clone());
    jobs.set(i64::try_from(local.jobs().len()).unwrap_or(i64::MAX));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
