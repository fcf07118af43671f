//! Who called a front end, and what the clock on its wall says.

use std::ffi::CStr;

/// A point in time as the local time zone has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// For example 2006.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 is Sunday.
    pub weekday: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 60.
    pub second: u32,
    /// East of Greenwich.
    pub offset_s: i64,
    /// For example `CET`; may be empty.
    pub zone: String,
}

/// The name that was given at login, by getlogin(3). Call it before there is a second thread.
pub fn login_name() -> Option<String> {
    // SAFETY: getlogin(3) returns null or a string that lives until the next call; it is copied
    // at once, and only the front ends, which have one thread then, call it.
    let name = unsafe {
        let name = libc::getlogin();
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name)
    };
    Some(name.to_str().ok()?.to_owned())
}

/// Takes seconds since the epoch apart.
pub fn local_time(seconds: u64) -> LocalTime {
    let seconds = libc::time_t::try_from(seconds).unwrap_or(0);
    // SAFETY: tm is plain old data for which zero bytes are a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call.
    unsafe { libc::localtime_r(&seconds, &mut tm) };
    let zone = if tm.tm_zone.is_null() {
        String::new()
    } else {
        // SAFETY: a zone's name is a C string that outlives this copy.
        unsafe { CStr::from_ptr(tm.tm_zone) }
            .to_string_lossy()
            .into_owned()
    };
    let small = |value: libc::c_int| u32::try_from(value).unwrap_or(0);
    LocalTime {
        year: i64::from(tm.tm_year) + 1900,
        month: small(tm.tm_mon) + 1,
        day: small(tm.tm_mday),
        weekday: small(tm.tm_wday),
        hour: small(tm.tm_hour),
        minute: small(tm.tm_min),
        second: small(tm.tm_sec),
        offset_s: tm.tm_gmtoff as i64,
        zone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_taken_apart() {
        let time = local_time(1_136_214_245);
        assert_eq!(time.year, 2006);
        assert!(time.month == 1 && (2..=3).contains(&time.day));
        assert_eq!(time.second, 5);
    }
}
