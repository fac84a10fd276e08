//! The times that a person types: `--at`, `--tz`, and the ages that are shown. The first two bytes choose the zone and
//! the present; the rest is the text.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use opsctl::time::{TimeError, age, parse_at, parse_zone, zone_name};

/// Zones with gaps and folds of all sizes, on both sides of the date line.
static ZONES: LazyLock<Vec<TimeZone>> = LazyLock::new(|| {
    let names = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Asia/Kathmandu",
        "+14:00",
        "-23:59",
        "Africa/Monrovia",
    ];
    names.iter().map(|name| parse_zone(name).expect("a zone")).collect()
});

pub fn run(data: &[u8]) {
    let Some(([zone, present], text)) = data.split_first_chunk::<2>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let zone = &ZONES[usize::from(*zone) % ZONES.len()];
    let now = match present % 6 {
        0 => Timestamp::MIN,
        1 => Timestamp::MAX,
        2 => Timestamp::UNIX_EPOCH,
        // In an hour that Berlin has twice, and just after one that it does not have.
        3 => Timestamp::constant(1_792_890_000, 0),
        4 => Timestamp::constant(1_774_746_000, 1),
        _ => Timestamp::constant(1_795_258_763, 999_999_999),
    };
    zones(text);
    match parse_at(text, now, zone) {
        Ok(at) => chosen(text, at, now, zone),
        Err(error) => refused(&error),
    }
    let _ = (age(now, Timestamp::MAX), age(Timestamp::MAX, now), age(Timestamp::MIN, Timestamp::MAX));
}

fn chosen(text: &str, at: Timestamp, now: Timestamp, zone: &TimeZone) {
    let spaced = format!(" \t{text} ");
    assert_eq!(parse_at(&spaced, now, zone).as_ref(), Ok(&at), "space around it means nothing");
    assert_eq!(parse_at(&text.to_ascii_uppercase(), now, zone).as_ref(), Ok(&at), "nor do capitals");
    let text = text.trim().to_ascii_lowercase();
    if text.ends_with("ago") || text == "yesterday" {
        assert!(at <= now, "ago is in the past");
    }
    let local = zone.to_datetime(at);
    if text.starts_with(|c: char| c.is_ascii_digit()) && !text.ends_with("ago") {
        let has_offset = text.get(10..).is_some_and(|rest| rest.contains(['z', '+', '-']));
        if !has_offset {
            let shown = format!("{local}");
            assert_eq!(shown.get(..10), text.get(..10), "the day that was typed is the day on the clock there");
            let back = zone.to_ambiguous_timestamp(local);
            assert!(!back.is_ambiguous(), "a time that happens twice, or never, is not taken");
        }
    }
    // What is shown can be typed.
    if (0..=9999).contains(&at.to_zoned(TimeZone::UTC).year()) {
        assert_eq!(parse_at(&at.to_string(), now, zone).as_ref(), Ok(&at), "{at}");
    }
}

fn refused(error: &TimeError) {
    let message = error.to_string();
    assert!(message.len() < 1000 && !message.chars().any(char::is_control), "{message}");
    if let TimeError::Skipped { first, second, .. } | TimeError::Repeated { first, second, .. } = error {
        assert!(first < second);
        for either in [first, second] {
            assert_eq!(&parse_at(&either.to_string(), Timestamp::UNIX_EPOCH, &TimeZone::UTC).unwrap(), either);
        }
    }
}

fn zones(text: &str) {
    match parse_zone(text) {
        Ok(zone) => {
            let name = zone_name(&zone);
            let again = parse_zone(&name).unwrap_or_else(|e| panic!("{name:?}: {e}"));
            assert_eq!(again.to_offset(Timestamp::UNIX_EPOCH), zone.to_offset(Timestamp::UNIX_EPOCH), "{name}");
        }
        Err(error) => refused(&error),
    }
}
