//! What a client hears when a recipient cannot be expanded. The session appends the recipient.

use crate::mail::Refusal;

/// No rule takes it, a rule rejects it, or there is no such user.
pub fn invalid() -> Refusal {
    Refusal::new(550, "Invalid recipient")
}

/// Something that may work later.
pub fn temporary() -> Refusal {
    Refusal::new(451, "Temporary failure")
}

/// An alias or virtual table has no answer now.
pub fn list_temporary() -> Refusal {
    Refusal::new(424, "4.2.4 Mailing list expansion problem")
}

/// An alias or virtual table leads nowhere.
pub fn list_permanent() -> Refusal {
    Refusal::new(524, "5.2.4 Mailing list expansion problem")
}
