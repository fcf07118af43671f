//! The spool's directories: made, and given to those they belong to, before anything runs.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use crate::config::Paths;
use crate::privsep::identity::Rights;
use crate::queue::fs::layout;
use crate::sys::errno::strerror;
use crate::sys::fs::sync_dir;
use crate::sys::{open, user};

use super::takeover::take_over;

/// Makes and mends them.
pub fn prepare_spool(paths: &Paths, rights: &Rights) -> Result<(), String> {
    if let Some(root) = &paths.root {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(root)
            .map_err(|error| format!("cannot make {}: {}", root.display(), strerror(&error)))?;
    }
    let (top, inner, drop_box) = match rights {
        Rights::Root {
            engine, queue_gid, ..
        } => ((0, 0), (engine.uid, 0), (0, *queue_gid)),
        Rights::User { uid, gid } => ((*uid, *gid), (*uid, *gid), (*uid, *gid)),
    };
    if rights.is_root() {
        leave_to_owner(&paths.spool)?;
    }
    make_room(&paths.spool, top, layout::ROOT_MODE)?;
    make_room(
        &paths.spool.join(layout::OFFLINE),
        drop_box,
        layout::OFFLINE_MODE,
    )?;
    for name in layout::PRIVATE {
        make_room(&paths.spool.join(name), inner, layout::PRIVATE_MODE)?;
    }
    if let Rights::Root { engine, .. } = rights {
        take_over(&paths.spool.join(layout::QUEUE), engine.uid);
    }
    // What the engine makes durable lies in these rooms, and it may not sync the spool itself.
    sync_dir(&paths.spool)
        .map_err(|error| format!("{}: {}", paths.spool.display(), strerror(&error)))?;
    if let Some(outer) = paths.spool.parent() {
        // New only at the very first start; not everybody may open it.
        let _ = File::open(outer).and_then(|outer| outer.sync_all());
    }
    Ok(())
}

/// The spool of an ordinary user's instance stays that user's: were it given to root's, neither
/// could go on.
fn leave_to_owner(spool: &Path) -> Result<(), String> {
    let uid = match fs::symlink_metadata(spool) {
        Ok(found) if found.uid() != 0 => found.uid(),
        _ => return Ok(()),
    };
    let owner = match user::by_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    };
    Err(format!(
        "{} belongs to {owner}: start smtpd as that user, or choose another directory with -R \
         (make run RUNDIR=DIR)",
        spool.display()
    ))
}

/// A directory with this owner, group and mode: made if it is missing, set right if it is not so.
pub fn make_room(path: &Path, (uid, gid): (u32, u32), mode: u32) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {}", path.display(), strerror(&error));
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // From here on by descriptor: what is checked is what is changed.
    let dir = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_dir() => Err(format!("{} is not a directory", path.display())),
        _ => open::dir(path).map_err(failed),
    };
    let dir = dir.map_err(|text| hint_of_owner(path, text, uid))?;
    let found = dir.metadata().map_err(failed)?;
    if found.uid() != uid {
        fchown(&dir, Some(uid), Some(gid)).map_err(|error| {
            let text = strerror(&error);
            format!(
                "{} is not owned by uid {uid}: {text}: give it to that user, or start smtpd as \
                 the user it belongs to",
                path.display()
            )
        })?;
    } else if found.gid() != gid {
        // An ordinary user's directory keeps the group that the file system gave it.
        let _ = fchown(&dir, None, Some(gid));
    }
    if found.mode() & 0o7777 != mode {
        dir.set_permissions(Permissions::from_mode(mode))
            .map_err(failed)?;
    }
    Ok(())
}

/// Adds whose it is, where that is why it cannot be had.
fn hint_of_owner(path: &Path, text: String, uid: u32) -> String {
    match fs::symlink_metadata(path) {
        Ok(found) if found.uid() != uid => format!(
            "{text}: it belongs to uid {}: start smtpd as that user, or choose another directory \
             with -R (make run RUNDIR=DIR)",
            found.uid()
        ),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spool_has_its_rooms_with_their_modes() {
        // spool-layout.md, Directories: 0711, offline 0770, the rest 0700.
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::under(&dir.path().join("instance"));
        let rights = Rights::find(&paths).unwrap();
        prepare_spool(&paths, &rights).unwrap();
        let mode = |name: &str| {
            let found = fs::metadata(paths.spool.join(name)).unwrap();
            (found.mode() & 0o7777, found.uid())
        };
        let us = user::effective_uid();
        let engine = match &rights {
            Rights::Root { engine, .. } => engine.uid,
            Rights::User { uid, .. } => *uid,
        };
        assert_eq!(mode(""), (0o711, us));
        assert_eq!(mode("offline"), (0o770, us));
        for name in layout::PRIVATE {
            assert_eq!(mode(name), (0o700, engine));
        }
        // Once more over what is there, with a mode gone wrong.
        fs::set_permissions(paths.spool.join("queue"), Permissions::from_mode(0o777)).unwrap();
        prepare_spool(&paths, &rights).unwrap();
        assert_eq!(mode("queue"), (0o700, engine));
        fs::remove_dir(paths.spool.join("purge")).unwrap();
        fs::write(paths.spool.join("purge"), "").unwrap();
        assert!(
            prepare_spool(&paths, &rights)
                .unwrap_err()
                .contains("is not a directory")
        );
    }
}
