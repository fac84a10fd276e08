//! Tests of `time`.

use proptest::prelude::*;

use super::*;

fn now() -> Timestamp {
    "2026-03-08T10:30:00Z".parse().unwrap()
}

fn utc(text: &str) -> Result<String, TimeError> {
    parse_at(text, now(), &TimeZone::UTC).map(|at| at.to_string())
}

fn berlin(text: &str) -> Result<String, TimeError> {
    parse_at(text, now(), &parse_zone("Europe/Berlin").unwrap()).map(|at| at.to_string())
}

#[test]
fn absolute_forms() {
    for (text, want) in [
        ("2026-03-07T14:00:00Z", "2026-03-07T14:00:00Z"),
        ("2026-03-07t14:00:00z", "2026-03-07T14:00:00Z"),
        ("2026-03-07 14:00:00+02:00", "2026-03-07T12:00:00Z"),
        ("2026-03-07T14:00:00.250-0530", "2026-03-07T19:30:00.25Z"),
        ("2026-03-07 14:00", "2026-03-07T14:00:00Z"),
        ("2026-03-07 14:00:05", "2026-03-07T14:00:05Z"),
        ("  2026-03-07  ", "2026-03-07T00:00:00Z"),
        ("2030-01-01", "2030-01-01T00:00:00Z"),
    ] {
        assert_eq!(utc(text).as_deref(), Ok(want), "{text}");
    }
    assert_eq!(berlin("2026-03-07 14:00").as_deref(), Ok("2026-03-07T13:00:00Z"));
    assert_eq!(berlin("2026-03-07").as_deref(), Ok("2026-03-06T23:00:00Z"));
    assert_eq!(berlin("2026-03-07T14:00Z").as_deref(), Ok("2026-03-07T14:00:00Z"), "an offset beats the zone");
}

#[test]
fn relative_forms() {
    for (text, want) in [
        ("now", "2026-03-08T10:30:00Z"),
        ("Today", "2026-03-08T10:30:00Z"),
        ("yesterday", "2026-03-07T10:30:00Z"),
        ("yesterday 14:00", "2026-03-07T14:00:00Z"),
        ("2h ago", "2026-03-08T08:30:00Z"),
        ("2 hours ago", "2026-03-08T08:30:00Z"),
        ("90 minutes ago", "2026-03-08T09:00:00Z"),
        ("1 day 2 hours ago", "2026-03-07T08:30:00Z"),
        ("1d2h ago", "2026-03-07T08:30:00Z"),
        ("1 month ago", "2026-02-08T10:30:00Z"),
    ] {
        assert_eq!(utc(text).as_deref(), Ok(want), "{text}");
    }
}

#[test]
fn a_day_ago_keeps_the_clock_time_across_daylight_saving() {
    let zone = parse_zone("Europe/Berlin").unwrap();
    let after_the_jump: Timestamp = "2026-03-29T10:00:00Z".parse().unwrap();
    for text in ["yesterday", "1 day ago"] {
        let at = parse_at(text, after_the_jump, &zone).unwrap();
        assert_eq!(at.to_string(), "2026-03-28T11:00:00Z", "12:00 in Berlin on both days: {text}");
    }
    assert_eq!(parse_at("24h ago", after_the_jump, &zone).unwrap().to_string(), "2026-03-28T10:00:00Z");
}

#[test]
fn a_skipped_or_repeated_local_time_is_refused_with_both_readings() {
    let skipped = berlin("2026-03-29 02:30").unwrap_err().to_string();
    assert!(skipped.contains("does not exist in Europe/Berlin"), "{skipped}");
    assert!(skipped.contains("2026-03-29T00:30:00Z or 2026-03-29T01:30:00Z"), "{skipped}");
    let repeated = berlin("2026-10-25 02:30").unwrap_err().to_string();
    assert!(repeated.contains("happens twice in Europe/Berlin"), "{repeated}");
    assert!(repeated.contains("2026-10-25T00:30:00Z or 2026-10-25T01:30:00Z"), "{repeated}");
}

#[test]
fn refusals_name_the_accepted_forms() {
    for text in [
        "",
        "tomorrow",
        "14:00",
        "2026-3-7",
        "2026-02-30",
        "2026-03-07 25:00",
        "2026-03-07 1400",
        "2026-03-07x14:00",
        "2026-03-07T14:00:00+2",
        "ago",
        "2 ago",
        "h ago",
        "1.5h ago",
        "2h 3h ago",
        "99999999999 years ago",
        "9223372036854775807 hours ago",
        "99999999999999999999999 s ago",
        "\u{1b}[31m",
    ] {
        let error = utc(text).unwrap_err().to_string();
        assert!(error.contains(ACCEPTED_FORMS), "{text}: {error}");
        assert!(!error.contains('\u{1b}'));
    }
    assert!(utc(&"9".repeat(100_000)).unwrap_err().to_string().len() < 400);
}

#[test]
fn zones() {
    for (text, name) in [("utc", "UTC"), ("Europe/Berlin", "Europe/Berlin"), ("+02:00", "+02"), ("-0530", "-05:30")] {
        assert_eq!(zone_name(&parse_zone(text).unwrap()), name);
    }
    for text in ["", "Mars/Olympus", "+99:00", "+1", "../../etc/passwd"] {
        assert!(matches!(parse_zone(text), Err(TimeError::Zone { .. })), "{text}");
    }
}

#[test]
fn ages_for_people() {
    let after = |seconds: i64| age(now(), Timestamp::from_second(now().as_second() + seconds).unwrap());
    assert_eq!(after(42), "42s");
    assert_eq!(after(12 * 60 + 5), "12m");
    assert_eq!(after(3 * 3600 + 12 * 60), "3h 12m");
    assert_eq!(after(26 * 3600), "26h 0m");
    assert_eq!(after(2 * 86_400), "2 days");
    assert_eq!(after(-300), "in 5m");
    assert_eq!(age(Timestamp::MIN, Timestamp::MAX).split(' ').next_back(), Some("days"));
}

proptest! {
    #[test]
    fn no_text_panics(text in ".*", zone in prop_oneof![Just("UTC"), Just("America/Sao_Paulo"), Just("+14:00")]) {
        let zone = parse_zone(zone).unwrap();
        for now in [Timestamp::MIN, now(), Timestamp::MAX] {
            let _ = parse_at(&text, now, &zone);
        }
    }

    #[test]
    fn nothing_near_the_grammar_panics(
        text in "[0-9]{1,20} ?(s|m|h|d|w|months|years|é) ?[0-9]{0,3} ?(h|days)? ago|[0-9]{4}-[0-9]{2}-[0-9]{2}[T é]?([0-9]{2}:[0-9]{2}(:[0-9]{2})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?",
    ) {
        let zone = parse_zone("Europe/Berlin").unwrap();
        for now in [Timestamp::MIN, now(), Timestamp::MAX] {
            let _ = parse_at(&text, now, &zone);
        }
    }

    #[test]
    fn every_timestamp_reads_back(second in -60_000_000_000_i64..250_000_000_000) {
        let at = Timestamp::from_second(second).unwrap();
        prop_assert_eq!(parse_at(&at.to_string(), now(), &TimeZone::UTC).ok(), (at.to_string().len() < 21).then_some(at));
    }
}
