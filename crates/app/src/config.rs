//! The daemon's configuration: a TOML file, or none at all.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use stowage_model::pool::{Overprovision, PoolPlace};
use stowage_model::{PoolConfig, PoolName, Reserve};
use stowage_node::EphemeralRules;

/// Read when `--config` is not given, if it exists.
pub(crate) const DEFAULT_PATH: &str = "/etc/stowage/config.toml";

/// Where the daemon listens for people, unless told otherwise.
pub(crate) const DEFAULT_ADMIN_SOCKET: &str = "/run/stowage/admin.sock";

/// The configuration, as typed. Every key may be left out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Config {
    /// Name of this node: CSI node id and topology value. The host name when left out; in
    /// Kubernetes it must be the node's name.
    pub(crate) node_name: Option<String>,
    /// CSI driver name.
    pub(crate) driver_name: String,
    /// CSI topology key.
    pub(crate) topology_key: String,
    /// How many volumes the node takes; 0 lets the orchestrator decide.
    pub(crate) max_volumes: i64,
    /// Directory for what must survive a restart.
    pub(crate) state_dir: PathBuf,
    /// Where CSI is served.
    pub(crate) csi_socket: PathBuf,
    /// Where people's commands are served; root only.
    pub(crate) admin_socket: PathBuf,
    /// `ADDRESS:PORT` for /metrics and /healthz, on loopback; `off` serves neither.
    pub(crate) metrics: String,
    /// What the authors of pods may ask for inline volumes.
    pub(crate) ephemeral: EphemeralRules,
    /// The pools.
    pub(crate) pool: Vec<PoolConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: None,
            driver_name: "local.csi.aliyun.com".to_owned(),
            topology_key: stowage_csi::DEFAULT_TOPOLOGY_KEY.to_owned(),
            max_volumes: 0,
            state_dir: "/var/lib/stowage".into(),
            csi_socket: "/run/stowage/csi.sock".into(),
            admin_socket: DEFAULT_ADMIN_SOCKET.into(),
            metrics: "127.0.0.1:9808".to_owned(),
            ephemeral: EphemeralRules::default(),
            pool: Vec::new(),
        }
    }
}

impl Config {
    /// Read the file given, or the default one, or fall back to one file pool under the state
    /// directory, so that a person can try the daemon with one command.
    pub(crate) fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let default = Path::new(DEFAULT_PATH);
        let path = path.or_else(|| default.exists().then_some(default));
        let Some(path) = path else {
            return Self::fallback();
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("failed to read the configuration {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// What holds where there is no file.
    fn fallback() -> anyhow::Result<Self> {
        let mut config = Self::default();
        config.pool.push(PoolConfig {
            name: PoolName::new("default")?,
            reserve: Reserve::default(),
            place: PoolPlace::File {
                path: config.state_dir.join("pool"),
                overprovision: Overprovision::default(),
            },
        });
        Ok(config)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        for (key, path) in [
            ("state-dir", &self.state_dir),
            ("csi-socket", &self.csi_socket),
            ("admin-socket", &self.admin_socket),
        ] {
            if !path.is_absolute() {
                bail!(
                    "{key}: {:?} is not an absolute path",
                    path.display().to_string()
                );
            }
        }
        self.ephemeral.check()?;
        self.metrics_address().map(drop)
    }

    /// Where to serve metrics, if anywhere.
    pub(crate) fn metrics_address(&self) -> anyhow::Result<Option<SocketAddr>> {
        if self.metrics == "off" {
            return Ok(None);
        }
        let address: SocketAddr = self.metrics.parse().with_context(|| {
            format!(
                "metrics: {:?} is neither \"off\" nor an address like 127.0.0.1:9808",
                self.metrics
            )
        })?;
        if !address.ip().is_loopback() {
            bail!(
                "metrics: {address} is not on loopback; metrics carry volume names and are not \
                   protected. Put a proxy in front of 127.0.0.1 to publish them"
            );
        }
        Ok(Some(address))
    }

    /// Who the driver is and where it runs.
    pub(crate) fn identity(&self) -> anyhow::Result<stowage_csi::Config> {
        let host = rustix::system::uname();
        self.identity_on(&host.nodename().to_string_lossy())
    }

    fn identity_on(&self, host_name: &str) -> anyhow::Result<stowage_csi::Config> {
        let node = self.node_name.as_deref().unwrap_or(host_name);
        let named = |name: &str| stowage_csi::Config {
            driver_name: self.driver_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: name.to_owned(),
            topology_key: self.topology_key.clone(),
            topology_value: name.to_owned(),
            max_volumes: self.max_volumes,
        };
        // With a name that is certainly right, what is wrong is something else.
        named("node").check()?;
        let identity = named(node);
        identity.check().with_context(|| match self.node_name {
            Some(_) => format!("node-name: {node:?} cannot be the name of a node"),
            None => format!(
                "the host name {node:?} cannot be the name of a node; set node-name in the \
                 configuration ({DEFAULT_PATH}, or --config FILE)"
            ),
        })?;
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let e = format!(
            "{:#}",
            Config::parse("node-name = \"a\"\nmetrix = \"off\"\n").unwrap_err()
        );
        assert!(e.contains("line 2") && e.contains("metrix"), "{e}");
        let text = "[[pool]]\nname = \"p\"\nkind = \"file\"\npath = \"/p\"\nsize = 3\n";
        let e = format!("{:#}", Config::parse(text).unwrap_err());
        assert!(e.contains("size"), "{e}");
    }

    #[test]
    fn pools_are_checked_when_the_file_is_read() {
        for (text, word) in [
            ("[[pool]]\nname = \"p\"\nkind = \"lvm\"\n", "vg"),
            ("[[pool]]\nname = \"p\"\nkind = \"file\"\n", "path"),
            (
                "[[pool]]\nname = \"p\"\nkind = \"thin\"\nvg = \"v\"\n",
                "thin-pool",
            ),
            (
                "[[pool]]\nname = \"-p\"\nkind = \"file\"\npath = \"/p\"\n",
                "-p",
            ),
            ("[[pool]]\nname = \"p\"\nkind = \"zfs\"\n", "zfs"),
            (
                "[[pool]]\nname = \"p\"\nkind = \"file\"\npath = \"/p\"\noverprovision = 0\n",
                "overprovision",
            ),
            ("metrics = \"0.0.0.0:9\"\n", "loopback"),
            ("csi-socket = \"csi.sock\"\n", "csi-socket"),
        ] {
            let e = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(e.contains(word), "{text}: {e}");
        }
    }

    #[test]
    fn rules_for_inline_volumes_are_checked_and_name_what_is_wrong() {
        let rules = |text: &str| Config::parse(&format!("[ephemeral]\n{text}\n"));
        let read = rules("max-share = \"30%\"\nmax-size = 1048576\nlimits = { wbps = 5 }").unwrap();
        assert_eq!(read.ephemeral.max_share, 30);
        assert_eq!(read.ephemeral.max_size.0, 1 << 20);
        assert_eq!(read.ephemeral.limits.write_bps, Some(5));
        assert_eq!(read.ephemeral.limits.read_bps, None);
        for (text, word) in [
            ("pools = []", "pools"),
            ("pools = [\"-x\"]", "-x"),
            ("max-size = \"big\"", "big"),
            ("max-size = 5", "max-size"),
            ("max-size = true", "64Gi"),
            ("max-share = 0", "percentage"),
            ("max-share = \"101%\"", "101%"),
            ("max-count = 0", "max-count"),
            ("max-count = -1", "max-count"),
            ("limits = { pbs = 1 }", "pbs"),
            ("limits = { iops = \"many\" }", "many"),
            ("layout = \"raid1\"", "layout"),
        ] {
            let e = format!("{:#}", rules(text).unwrap_err());
            assert!(e.contains(word), "{text}: {e}");
        }
    }

    #[test]
    fn the_example_in_deploy_parses_and_shows_the_defaults() {
        let text = include_str!("../../../deploy/config.toml");
        Config::parse(text).unwrap();
        // With every default and every example in force it must parse as well.
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.starts_with('[') || rest.contains(" = ") => rest,
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let shown = Config::parse(&all).unwrap();
        let default = Config::default();
        assert_eq!(shown.driver_name, default.driver_name);
        assert_eq!(shown.topology_key, default.topology_key);
        assert_eq!(shown.state_dir, default.state_dir);
        assert_eq!(shown.csi_socket, default.csi_socket);
        assert_eq!(shown.admin_socket, default.admin_socket);
        assert_eq!(shown.metrics, default.metrics);
        assert_eq!(shown.pool.len(), 3);
        let (rules, most) = (&shown.ephemeral, &default.ephemeral);
        assert_eq!(rules.enabled, most.enabled);
        assert_eq!(rules.max_size, most.max_size);
        assert_eq!(rules.max_share, most.max_share);
        assert_eq!(rules.max_count, most.max_count);
        // The examples.
        let pools = rules.pools.as_deref().unwrap();
        assert!(
            pools
                .iter()
                .all(|p| shown.pool.iter().any(|s| s.name == *p))
        );
        assert_eq!(rules.limits.read_bps, Some(100 << 20));
        assert_eq!(rules.limits.write_iops, Some(1000));
    }

    #[test]
    fn without_a_file_there_is_one_file_pool() {
        let config = Config::fallback().unwrap();
        assert_eq!(config.driver_name, "local.csi.aliyun.com");
        let [pool] = config.pool.as_slice() else {
            panic!("{:?}", config.pool)
        };
        assert_eq!(pool.path(), Some(Path::new("/var/lib/stowage/pool")));
    }

    #[test]
    fn a_file_without_pools_has_none() {
        assert!(Config::parse("max-volumes = 9\n").unwrap().pool.is_empty());
    }

    #[test]
    fn a_name_that_no_node_can_have_is_told_by_its_key_and_where_it_came_from() {
        let said =
            |config: &Config, host: &str| format!("{:#}", config.identity_on(host).unwrap_err());
        let e = said(&Config::default(), "(none)");
        for word in ["host name", "(none)", "set node-name", DEFAULT_PATH] {
            assert!(e.contains(word), "{word}: {e}");
        }
        let named = Config::parse("node-name = \"node a\"\n").unwrap();
        let e = said(&named, "fine");
        assert!(
            e.contains("node-name: \"node a\"") && !e.contains("host"),
            "{e}"
        );
        let driver = Config::parse("driver-name = \"9\"\n").unwrap();
        let e = said(&driver, "fine");
        assert!(e.contains("driver name") && !e.contains("node-name"), "{e}");
        assert_eq!(
            Config::default().identity_on("fine").unwrap().node_id,
            "fine"
        );
    }
}
