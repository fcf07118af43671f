//! Local time as header fields and mailboxes print it.
//!
//! The zone is read once, on the first call; a process that will be chrooted calls [`load`]
//! before, or it prints UTC.

use std::sync::Once;

unsafe extern "C" {
    // POSIX; the libc crate declares it on some of our systems only.
    fn tzset();
}

/// Reads the system's time zone, unless that was done before.
pub fn load() {
    static LOADED: Once = Once::new();
    // SAFETY: tzset(3) takes nothing; `Once` keeps our calls of it from running side by side.
    LOADED.call_once(|| unsafe { tzset() });
}

/// A moment as RFC 5322 §3.3 writes it, in local time and English whatever the locale:
/// `Fri, 21 Nov 2025 19:43:12 +0000 (UTC)`. The zone's abbreviation is left out when it is longer
/// than five characters or is no plain word.
pub fn rfc5322_date(unix_s: u64) -> String {
    date(&broken_down(unix_s))
}

/// A moment as ctime(3) prints it, without the line end: `Thu Jan  1 00:00:00 1970`.
pub fn ctime(unix_s: u64) -> String {
    let local = broken_down(unix_s);
    format!(
        "{} {} {:2} {:02}:{:02}:{:02} {}",
        name(&WEEKDAYS, local.weekday),
        name(&MONTHS, local.month),
        local.day,
        local.hour,
        local.minute,
        local.second,
        local.year,
    )
}

fn date(local: &BrokenDown) -> String {
    let offset_min = local.offset_s / 60;
    let sign = if offset_min < 0 { '-' } else { '+' };
    let offset_min = offset_min.unsigned_abs();
    let mut date = format!(
        "{}, {} {} {} {:02}:{:02}:{:02} {sign}{:02}{:02}",
        name(&WEEKDAYS, local.weekday),
        local.day,
        name(&MONTHS, local.month),
        local.year,
        local.hour,
        local.minute,
        local.second,
        offset_min / 60,
        offset_min % 60,
    );
    if let Some(zone) = &local.zone {
        date.push_str(&format!(" ({zone})"));
    }
    date
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const LONGEST_ZONE: usize = 5;

struct BrokenDown {
    year: i64,
    month: i32,
    day: i32,
    weekday: i32,
    hour: i32,
    minute: i32,
    second: i32,
    offset_s: i64,
    zone: Option<String>,
}

fn broken_down(unix_s: u64) -> BrokenDown {
    load();
    let time = libc::time_t::try_from(unix_s).unwrap_or(libc::time_t::MAX);
    // SAFETY: tm is plain old data for which zero bytes are a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call. It fails only for years that an int cannot
    // hold; `tm` is then still the zero value, a date that is wrong but well formed.
    unsafe { libc::localtime_r(&time, &mut tm) };
    BrokenDown {
        year: i64::from(tm.tm_year) + 1900,
        month: tm.tm_mon,
        day: tm.tm_mday,
        weekday: tm.tm_wday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
        offset_s: tm.tm_gmtoff as i64,
        zone: zone(&tm),
    }
}

fn zone(tm: &libc::tm) -> Option<String> {
    if tm.tm_zone.is_null() {
        return None;
    }
    // SAFETY: localtime_r(3) points tm_zone at a C string that lives as long as the zone does,
    // and the zone is loaded once.
    let zone = unsafe { std::ffi::CStr::from_ptr(tm.tm_zone) };
    let zone = zone.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'-';
    let fits = !zone.is_empty() && zone.len() <= LONGEST_ZONE && zone.bytes().all(plain);
    fits.then(|| zone.to_string())
}

fn name(names: &[&'static str], index: i32) -> &'static str {
    usize::try_from(index)
        .ok()
        .and_then(|index| names.get(index).copied())
        .unwrap_or("???")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_the_form_of_rfc_5322() {
        // RFC 5322 §3.3: day-name, day month year hour:minute:second zone.
        let date = rfc5322_date(1_763_754_192);
        let words: Vec<&str> = date.split(' ').collect();
        assert!(["Fri,", "Sat,"].contains(&words[0]), "{date}");
        assert!(["21", "22"].contains(&words[1]), "{date}");
        assert_eq!(&words[2..4], ["Nov", "2025"]);
        assert_eq!(words[4].len(), 8);
        assert_eq!(words[5].len(), 5);
        assert!(words[5].starts_with(['+', '-']));
        assert!(words.len() <= 7);
    }

    #[test]
    fn a_zone_west_of_greenwich_has_a_minus() {
        let mut local = BrokenDown {
            year: 2006,
            month: 0,
            day: 2,
            weekday: 1,
            hour: 15,
            minute: 4,
            second: 5,
            offset_s: 3600,
            zone: Some("CET".to_owned()),
        };
        assert_eq!(date(&local), "Mon, 2 Jan 2006 15:04:05 +0100 (CET)");
        local.offset_s = -12600;
        local.zone = None;
        assert_eq!(date(&local), "Mon, 2 Jan 2006 15:04:05 -0330");
    }

    #[test]
    fn ctime_has_its_24_columns() {
        let text = ctime(1_700_000_000);
        assert_eq!(text.len(), 24, "{text}");
        assert!(text.ends_with(" 2023") && text.contains(" Nov 1"), "{text}");
    }

    #[test]
    fn the_day_has_no_leading_zero_and_far_times_do_not_panic() {
        // 3 June 2024, noon UTC.
        let date = rfc5322_date(1_717_416_000);
        assert!(
            date.contains(", 3 Jun 2024 ") || date.contains(", 4 Jun 2024 "),
            "{date}"
        );
        for far in [0, u64::MAX, i64::MAX as u64, 1 << 40] {
            assert!(!rfc5322_date(far).contains('\n'));
        }
    }
}
