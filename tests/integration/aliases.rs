//! aliases(5), as the confined engine finds it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::support::{Setup, field};

#[test]
fn an_included_file_may_lie_anywhere() {
    // aliases(5), :include: - the file is read when a message for the name arrives.
    let lists = TempDir::new().unwrap();
    fs::set_permissions(lists.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let staff = lists.path().join("staff");
    fs::write(&staff, "bob\n").unwrap();
    fs::set_permissions(&staff, fs::Permissions::from_mode(0o644)).unwrap();
    let daemon = Setup::new(&format!(
        "listen on 127.0.0.1 port $port\n\
         action \"in\" maildir \"$dir/mail\" virtual {{ staff = \":include:{}\", bob = $user, \
         carol = $user }}\n\
         match from any for any action \"in\"\n",
        staff.display()
    ))
    .start();
    let mut client = daemon.hello();
    client.mail("a@example.net", &["staff@example.org"], b"\nx\n");
    // The file is replaced as editors do it.
    let next = lists.path().join("staff.new");
    fs::write(&next, "bob, carol\n").unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(&next, &staff).unwrap();
    client.mail("a@example.net", &["staff@example.org"], b"\nx\n");
    // bob and carol are one user of the system, who gets one copy.
    let mails = daemon.wait_mail(2);
    assert!(
        mails
            .iter()
            .all(|mail| field(mail, "Delivered-To").is_some())
    );
}
