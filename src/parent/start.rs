//! From a configuration to a running parent: everything that can go wrong does so here, before
//! the daemon leaves its terminal.

use crate::config::Config;
use crate::log::{self, Writer};
use crate::privsep::Handover;
use crate::privsep::identity::Rights;
use crate::sys::errno::strerror;
use crate::sys::process;
use crate::sys::sandbox::{self, Role};
use crate::sys::signal::Signals;

use super::held::{ControlSocket, Held, PidFile, lock_spool};
use super::keys::Keeper;
use super::listeners::bind_all;
use super::serve::{InUse, Parent};
use super::spool::{make_room, prepare_spool};
use super::{Ground, Options, Reread, built_in};

/// Makes ready all that a running daemon holds.
pub fn start(
    options: Options,
    handover: &Handover,
    config: Config,
    reread: Reread,
) -> Result<Parent, String> {
    let umask = process::set_umask(0o022);
    let rights = Rights::find(&options.paths)?;
    let trial = built_in::is(&handover.sources);
    let keys = Keeper::load(&config)?;
    let in_use = InUse::new(handover, config)?;
    prepare_spool(&options.paths, &rights)?;
    let spool_lock = lock_spool(&options.paths)?;
    if trial {
        let owner = built_in::recipient()?;
        make_room(
            &built_in::maildir(&options.paths),
            (owner.uid, owner.gid),
            0o700,
        )?;
    }
    let control = ControlSocket::bind(&options.paths.socket)?;
    // A queue run takes no mail from the network, and disturbs no one who does.
    let listeners = if options.run_once {
        Vec::new()
    } else {
        control.outlast_orphan(|| bind_all(&in_use.config.listeners, &[]))?
    };
    let advice =
        (trial && !options.run_once).then(|| built_in::advice(&options.paths, &in_use.config));
    log::info(format_args!(
        "info: smtpd-rs {} starting",
        env!("CARGO_PKG_VERSION")
    ));
    if options.ground == Ground::Back {
        process::daemonize().map_err(|error| format!("daemon: {}", strerror(&error)))?;
    }
    log::start("smtpd", options.log, Writer::Caller);
    let signals = Signals::catch().map_err(|error| format!("signals: {}", strerror(&error)))?;
    let pid_file = PidFile::write(&options.paths.pid)?;
    sandbox::enter(Role::Parent).map_err(|error| format!("sandbox: {}", strerror(&error)))?;
    Ok(Parent::new(
        options,
        rights,
        in_use,
        reread,
        Held {
            listeners,
            control,
            advice,
            keys,
            umask,
            _pid_file: pid_file,
            _spool_lock: spool_lock,
        },
        signals,
    ))
}
