//! The configuration as one piece of work sees it.

use crate::config::{Config, Diagnostic, Sources};

use super::Tables;

/// A configuration and its tables. They belong together: the names that smtpd.conf(5) gives to
/// tables written in place are those of one reading of it.
pub struct Snapshot {
    /// Counts the configurations of this process: what was made for another one is not reused.
    pub version: u64,
    /// Rules, actions and limits.
    pub config: Config,
    pub tables: Tables,
}

impl Snapshot {
    /// Builds the tables of `config` out of `sources`.
    pub fn load(
        version: u64,
        config: Config,
        sources: &Sources,
    ) -> Result<Snapshot, Vec<Diagnostic>> {
        let tables = Tables::load(&config, sources)?;
        Ok(Snapshot {
            version,
            config,
            tables,
        })
    }
}
