//! What was found of users a moment ago, for the recipients that follow.
//!
//! Most mail goes to users that have just had some. To look each of them up again in the system's
//! database, and to have the parent look for a .forward that is not there, costs more than all the
//! rest of a recipient. A user of the system is believed for the rest of the second. That there is
//! no .forward is believed for as long as the home directory is what it was: whoever makes a file
//! in it changes the time of its last change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::privsep::HomeState;
use crate::sys::user::User;
use crate::util::Timestamp;

/// Users of the system, and homes without a .forward.
#[derive(Default)]
pub struct Recent {
    users: Mutex<HashMap<String, (Timestamp, User)>>,
    homes: Mutex<HashMap<Owner, Home>>,
}

/// Whose .forward it is: where it would be, and who may write it.
type Owner = (PathBuf, u32, u32);

/// A home directory without a .forward.
struct Home {
    state: HomeState,
    /// When it was last seen so.
    seen: Timestamp,
}

impl Recent {
    /// The user of the system that had this name in this second.
    pub fn user(&self, name: &str, now: Timestamp) -> Option<User> {
        let users = lock(&self.users);
        let (at, user) = users.get(name)?;
        (*at == now).then(|| user.clone())
    }

    /// Keeps a user for the rest of the second.
    pub fn keep_user(&self, name: &str, user: &User, now: Timestamp) {
        let mut users = lock(&self.users);
        if users.len() >= MOST {
            users.retain(|_, (at, _)| *at == now);
        }
        if users.len() < MOST {
            users.insert(name.to_owned(), (now, user.clone()));
        }
    }

    /// Whether `owner` has no .forward, because there was none and nothing has changed.
    pub fn has_no_forward(&self, owner: &User, now: Timestamp) -> bool {
        self.is_as_before(owner, now, HomeState::of)
    }

    /// A home that was near may be on a file server by now that does not answer. So nothing is known
    /// of it while one thread looks, and no other one follows.
    fn is_as_before(
        &self,
        owner: &User,
        now: Timestamp,
        look: impl FnOnce(&Path) -> Option<HomeState>,
    ) -> bool {
        let taken = lock(&self.homes).remove_entry(&key_of(owner));
        let Some((key, mut home)) = taken else {
            return false;
        };
        // Not under the lock: it may take its time.
        let is_same = look(&owner.home) == Some(home.state);
        if is_same {
            home.seen = now;
            lock(&self.homes).entry(key).or_insert(home);
        }
        is_same
    }

    /// Like [`Recent::has_no_forward`], for who may not wait: `false` also when a look at the home might
    /// take its time.
    pub fn has_no_forward_at_once(&self, owner: &User, now: Timestamp) -> bool {
        let is_near = lock(&self.homes)
            .get(&key_of(owner))
            .is_some_and(|home| home.seen.0 + NEAR_SECONDS >= now.0);
        is_near && self.has_no_forward(owner, now)
    }

    /// Keeps that there was no .forward in the home of `owner`, which was in this state before. A
    /// look at that home must wait for this system alone.
    pub fn keep_home(&self, owner: &User, state: HomeState, now: Timestamp) {
        if !state.is_settled(now) {
            return;
        }
        let home = Home { state, seen: now };
        let mut homes = lock(&self.homes);
        if homes.len() >= MOST {
            homes.retain(|_, home| home.seen.0 + NEAR_SECONDS >= now.0);
        }
        if homes.len() < MOST {
            homes.insert(key_of(owner), home);
        }
    }
}

fn key_of(owner: &User) -> Owner {
    (owner.home.clone(), owner.uid, owner.gid)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most users, and most homes.
const MOST: usize = 4096;
/// For so long the system is taken to have at hand what it has read of a directory.
const NEAR_SECONDS: u64 = 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sys::sandbox;

    fn owner(home: &Path) -> User {
        User {
            name: "bob".into(),
            uid: 1000,
            gid: 1000,
            gecos: String::new(),
            home: home.to_owned(),
        }
    }

    /// Later than what is done here, whatever clock the file system has.
    fn later() -> Timestamp {
        Timestamp::now().plus(60)
    }

    #[test]
    fn a_home_is_believed_until_something_is_made_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("bob");
        fs::create_dir(&home).unwrap();
        let (recent, bob, now) = (Recent::default(), owner(&home), later());
        assert!(!recent.has_no_forward(&bob, now));
        recent.keep_home(&bob, HomeState::of(&bob.home).unwrap(), now);
        assert!(recent.has_no_forward(&bob, now));
        assert!(recent.has_no_forward_at_once(&bob, now));
        // Others with the same home see it with other rights.
        for (uid, gid) in [(1001, 1000), (1000, 1001)] {
            let eve = User {
                uid,
                gid,
                ..owner(&home)
            };
            assert!(!recent.has_no_forward(&eve, now));
        }
        fs::write(home.join(".forward"), "alice\n").unwrap();
        assert!(!recent.has_no_forward_at_once(&bob, now));
        assert!(!recent.has_no_forward(&bob, now));
    }

    #[test]
    fn one_looks_at_a_home_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (recent, bob, now) = (Recent::default(), owner(dir.path()), later());
        let state = HomeState::of(&bob.home).unwrap();
        recent.keep_home(&bob, state, now);
        let slow = |_: &Path| {
            assert!(!recent.has_no_forward(&bob, now));
            assert!(!recent.has_no_forward_at_once(&bob, now));
            Some(state)
        };
        assert!(recent.is_as_before(&bob, now, slow));
        assert!(recent.has_no_forward_at_once(&bob, now));
    }

    #[test]
    fn a_home_whose_times_are_set_back_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let (recent, bob, now) = (Recent::default(), owner(dir.path()), later());
        recent.keep_home(&bob, HomeState::of(&bob.home).unwrap(), now);
        let home = fs::File::open(dir.path()).unwrap();
        let before = home.metadata().unwrap().modified().unwrap();
        fs::write(dir.path().join(".forward"), "alice\n").unwrap();
        home.set_modified(before).unwrap();
        assert!(!recent.has_no_forward(&bob, now));
    }

    #[test]
    fn a_home_that_is_not_there_is_believed_until_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("bob");
        let (recent, bob, now) = (Recent::default(), owner(&home), later());
        recent.keep_home(&bob, HomeState::Missing, now);
        // Where what is not there may only be hidden, it is not believed.
        assert_eq!(
            recent.has_no_forward_at_once(&bob, now),
            !sandbox::HIDES_FILES
        );
        fs::create_dir(&home).unwrap();
        assert!(!recent.has_no_forward(&bob, now));
    }

    #[test]
    fn a_home_that_has_just_changed_is_not_believed_and_an_old_look_is_no_look() {
        let dir = tempfile::tempdir().unwrap();
        let (recent, bob) = (Recent::default(), owner(dir.path()));
        let state = HomeState::of(&bob.home).unwrap();
        recent.keep_home(&bob, state, Timestamp::now());
        assert!(!recent.has_no_forward(&bob, later()));
        let now = later();
        recent.keep_home(&bob, state, now);
        assert!(recent.has_no_forward_at_once(&bob, now.plus(NEAR_SECONDS)));
        let much_later = now.plus(2 * NEAR_SECONDS + 1);
        assert!(!recent.has_no_forward_at_once(&bob, much_later));
        assert!(recent.has_no_forward(&bob, much_later));
        assert!(recent.has_no_forward_at_once(&bob, much_later));
    }

    #[test]
    fn a_user_is_believed_for_the_rest_of_the_second_and_room_is_bounded() {
        let (recent, bob) = (Recent::default(), owner(Path::new("/nonexistent")));
        let now = Timestamp(1_000_000);
        recent.keep_user("bob", &bob, now);
        assert_eq!(recent.user("bob", now), Some(bob.clone()));
        assert_eq!(recent.user("eve", now), None);
        assert_eq!(recent.user("bob", now.plus(1)), None);
        for n in 0..2 * MOST {
            recent.keep_user(&n.to_string(), &bob, now);
            let home = PathBuf::from(format!("/nonexistent/{n}"));
            recent.keep_home(&owner(&home), HomeState::Missing, now);
        }
        assert_eq!(lock(&recent.users).len(), MOST);
        assert_eq!(lock(&recent.homes).len(), MOST);
        recent.keep_user("bob", &bob, now.plus(1));
        assert_eq!(lock(&recent.users).len(), 1);
        let much_later = now.plus(NEAR_SECONDS + 1);
        recent.keep_home(&bob, HomeState::Missing, much_later);
        assert_eq!(lock(&recent.homes).len(), 1);
    }
}
