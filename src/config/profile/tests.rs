use super::*;

const MINIMAL: &str =
    "name = \"x\"\ncontract_version = \"1\"\n[[services]]\nname = \"s\"\n[services.volume]\ndata_root = \"/data\"\n";

fn refused(more: &str) -> String {
    let error = Profile::parse(&format!("{MINIMAL}{more}"), Path::new("p.toml")).unwrap_err();
    assert_eq!(error.code(), crate::ExitCode::Usage);
    error.full_message()
}

#[test]
fn every_built_in_profile_loads_under_its_own_name() {
    for name in Profile::names() {
        assert_eq!(Profile::load(name).unwrap().name, name);
    }
    let openwork = Profile::load("openwork").unwrap();
    let volume = openwork.volume().unwrap();
    assert_eq!(volume.data_root, Path::new("/data"));
    assert_eq!(volume.recoverable, ["sidecars"]);
    assert_eq!(volume.not_ours, [".opsctl", "lost+found"]);
    assert_eq!(openwork.contract_version, "1.0");
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = Profile::load("openwerk").unwrap_err();
    assert_eq!(error.code(), crate::ExitCode::Usage);
    assert!(error.full_message().contains("openwork"), "{error}");
    assert!(Profile::load("./no-such.toml").unwrap_err().full_message().contains("no-such.toml"));
    assert!(Profile::load("openwork:web").unwrap_err().full_message().contains("no service `web`"));
    assert_eq!(Profile::load("openwork:openwork").unwrap().chosen.as_deref(), Some("openwork"));
}

#[test]
fn one_of_several_volumes_has_to_be_chosen() {
    let text = format!(
        "{MINIMAL}[[services]]\nname = \"t\"\n[services.volume]\ndata_root = \"/t\"\n[[services]]\nname = \"u\"\n"
    );
    let mut profile = Profile::parse(&text, Path::new("p.toml")).unwrap();
    let message = profile.volume().unwrap_err().full_message();
    assert!(message.contains("several services: s, t, u"), "{message}");
    for (chosen, root) in [("s", Some("/data")), ("t", Some("/t")), ("u", None)] {
        profile.chosen = Some(chosen.to_owned());
        assert_eq!(profile.volume().ok().map(|volume| volume.data_root.as_path()), root.map(Path::new));
    }
}

#[test]
fn paths_stay_below_the_data_root() {
    for path in ["../etc", "/etc", "a/../../b", "", "./a", "."] {
        assert!(refused(&format!("recoverable = [\"{path}\"]")).contains("relative to `data_root`"), "{path}");
        let durable = format!("durable = [{{ path = \"{path}\", note = \"n\" }}]");
        assert!(refused(&durable).contains("relative to `data_root`"), "{path}");
    }
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    let message = refused("recoverabel = []");
    assert!(message.contains("p.toml:7: unknown key `recoverabel`"), "{message}");
}

/// The line and the text of each problem.
fn problems(more: &str) -> Vec<(Option<usize>, String)> {
    let problems = Profile::problems(&format!("{MINIMAL}{more}"));
    problems.into_iter().map(|problem| (problem.line, problem.says)).collect()
}

/// A second service, which begins at line 7.
const OTHER: &str = "[[services]]\nname = \"t\"\n";
const VARIABLE: &str = "source = \"railway\"\nneed = \"required\"\n";

#[test]
fn each_rule_is_kept_and_its_breach_is_found_at_its_line() {
    let variable = |more: &str| format!("[[services.variables]]\nname = \"A\"\n{VARIABLE}{more}");
    let identity = "[[services.variables]]\nname = \"A\"\nsecret = true\nsource = \"railway\"\nneed = \"required\"\n\
                    [[services.identities]]\nname = \"c\"\nvariable = \"A\"\nsend = \"bearer\"\n";
    let probe = |more: &str| format!("{identity}[[services.probes]]\nname = \"p\"\nwaits = true\n{more}");
    let waits = "[[services.probes]]\nname = \"q\"\npath = \"/q\"\nwaits = true\nexpect = [{ status = [200] }]\n";
    let row = |more: &str| format!("{identity}[[services.auth]]\n{more}");
    let location =
        |more: &str| format!("{}[[services.volume.locations]]\nname = \"l\"\nnote = \"n\"\n{more}", variable(""));
    let system = |more: &str| format!("{identity}{more}");
    let workspaces = "[services.workspaces]\nengine = \"openwork\"\nvariable = \"A\"\nidentity = \"c\"\nlist = \"/l\"\nitems_at = \"/i\"\nconfig = \"/c\"\naudit = \"/a\"\naudit_items_at = \"/e\"\naudit_time_at = \"/t\"\n";
    let sessions = "[services.sessions]\nengine = \"opencode\"\nidentity = \"c\"\nlist = \"/l?n={limit}\"\none = \"/o\"\ncreate = \"/c\"\nhealth = \"/h\"\nversion_at = \"/v\"\n";
    let sidecars =
        "[services.sidecars]\npath = \"s\"\nsource = \"A\"\ndownloaded = []\nmanifest = \"https://a.example\"\n";
    let tokens =
        "[services.scoped_tokens]\npath = \"/t\"\nidentity = \"c\"\nscopes = []\ntoken_at = \"/t\"\nid_at = \"/i\"\n";
    let whoami = "[services.whoami]\npath = \"/w\"\nidentity = \"c\"\nsha256_at = \"/h\"\n";
    for good in [variable(""), system(workspaces), system(sessions), system(sidecars), system(tokens), system(whoami)] {
        assert_eq!(problems(&good), [], "{good}");
    }
    let cases: Vec<(String, usize, &str)> = vec![
        (format!("{OTHER}[[services]]\nname = \"t\"\n"), 9, "the service `t` is there twice"),
        ("[[services]]\nname = \"a:b\"\n".into(), 8, "nor hold `:`"),
        (
            "[[services]]\nname = \"t\"\n[services.volume]\ndata_root = \"data\"\n".into(),
            10,
            "must be an absolute path",
        ),
        (
            "[[services]]\nname = \"t\"\n[services.volume]\ndata_root = \"/a/../b\"\n".into(),
            10,
            "must be an absolute path",
        ),
        ("recoverable = [\"a\",\n\"../b\"]".into(), 8, "relative to `data_root`"),
        ("not_ours = [\"/b\"]".into(), 7, "relative to `data_root`"),
        (
            "durable = [{ path = \"a\", note = \"\" }, { path = \"a\", note = \"\" }]".into(),
            7,
            "the path `a` is there twice",
        ),
        (
            "durable = [{ path = \"a\", note = \"\", format = \"sqlite\", holds = { \"/t\" = \"array\" } }]".into(),
            7,
            "for a file of the format `json`",
        ),
        (
            "durable = [{ path = \"a\", note = \"\", format = \"json\", holds = { t = \"array\" } }]".into(),
            7,
            "`t` is no JSON pointer",
        ),
        (location("candidates = []\nfix = { A = \"/data/x\" }"), 11, "has no candidates"),
        (
            location("candidates = [{ variable = \"A\" }]\nfix = { A = \"/data/x\" }\nholds = { \"\" = \"object\" }"),
            11,
            "for a file of the format `json`",
        ),
        (location("candidates = [{ variable = \"A\" }]\nfix = {}"), 11, "does not say how to put it"),
        (location("candidates = [{ variable = \"A\" }]\nfix = { B = \"/data/x\" }"), 15, "`l` refers to `B`"),
        (location("candidates = [{ variable = \"A\" }]\nfix = { A = \"/dat\" }"), 15, "off the volume"),
        (
            location("candidates = [{ variable = \"A\" }]\nfix = { A = \"/data\" }\n")
                + &location("")[location("").find("[[services.volume").unwrap()..]
                + "candidates = [{ variable = \"A\" }]\nfix = { A = \"/data\" }",
            16,
            "the location `l` is there twice",
        ),
        (variable("") + &variable(""), 11, "the variable `A` is there twice"),
        (variable("").replace("\"A\"", "\"A B\""), 8, "is no name of a variable"),
        (variable("or = [\"B\"]"), 11, "`A` refers to `B`"),
        (variable("when = [{ variable = \"B\" }]"), 11, "`A` refers to `B`"),
        (variable("required_when = [{ variable = \"B\" }]"), 11, "`A` refers to `B`"),
        (variable("when = [{ variable = \"A\", service = \"s\" }]"), 11, "names its own service"),
        (variable("when = [{ variable = \"A\", service = \"x\" }]"), 11, "a service that there is not"),
        (variable("when = [{ variable = \"B\", service = \"t\" }]\n") + OTHER, 11, "`A` refers to `B`"),
        (variable("rules = [{ when = [{ variable = \"B\" }], shape = { kind = \"text\" } }]"), 11, "`A` refers to `B`"),
        (variable("rules = [{ when = [], shape = { kind = \"one-of\", values = [] } }]"), 11, "it has no `values`"),
        (variable("shape = { kind = \"one-of\", values = [] }"), 11, "it has no `values`"),
        (variable("shape = { kind = \"path\", under = \"data\" }"), 11, "`under` is no absolute path"),
        (variable("shape = { kind = \"token\", min_bytes = 0 }"), 11, "a token of no bytes"),
        (variable("shape = { kind = \"integer\", min = 2, max = 1 }"), 11, "`min` is above `max`"),
        (variable("shape = { kind = \"reference\", schemes = [] }"), 11, "it has no `schemes`"),
        (variable("value = \"x\"\nsecret = true"), 11, "a profile holds no secrets"),
        (variable("default = \"x\"\nshape = { kind = \"boolean\" }"), 11, "does not have its shape"),
        (variable("shared_with = [\"t\"]\n") + OTHER, 11, "which does not have it"),
        (variable("shared_with = [\"s\"]"), 11, "which does not have it"),
        (identity.replace("\"c\"", "\"none\""), 12, "is known already"),
        (identity.replace("secret = true\n", ""), 11, "is no secret variable"),
        (identity.replace("\"bearer\"", "{ header = \"X Y\" }"), 12, "`X Y` is no name of a header"),
        (format!("{identity}headers = {{ \"X:\" = \"\" }}"), 12, "`X:` is no name of a header"),
        (
            identity.to_owned() + &identity[identity.find("[[services.identities]]").unwrap()..],
            16,
            "the identity `c` is there twice",
        ),
        (system(&tokens.replace("\"c\"", "\"d\"")), 16, "`d` is no identity"),
        (system(&tokens.replace("path = \"/t\"", "path = \"t\"")), 16, "must be the path of a request"),
        (system(&tokens.replace("\"/i\"", "\"i\"")), 16, "`i` is no JSON pointer"),
        (system(&format!("{tokens}items_at = \"l\"")), 16, "`l` is no JSON pointer"),
        (system(&whoami.replace("\"c\"", "\"d\"")), 16, "`d` is no identity"),
        (system(&whoami.replace("\"/w\"", "\"w\"")), 16, "must be the path of a request"),
        (system(&whoami.replace("\"/h\"", "\"h\"")), 16, "`h` is no JSON pointer"),
        (system(&format!("{whoami}scope_at = \"s\"")), 16, "`s` is no JSON pointer"),
        (probe("path = \"/p\"\nexpect = []"), 16, "the probe `p` expects no status"),
        (probe("path = \"/p\"\nexpect = [{ status = [] }]"), 16, "the probe `p` expects no status"),
        (probe("path = \"/p\"\nexpect = [{ status = [99] }]"), 16, "99 is no HTTP status"),
        (probe("path = \"/p\"\nexpect = [{ status = [200], json = { ok = true } }]"), 16, "`ok` is no JSON pointer"),
        (probe("path = \"/p\"\nexpect = [{ status = [200] }]\nversions = { v = \"v\" }"), 16, "`v` is no JSON pointer"),
        (probe("path = \"/p\"\nexpect = [{ status = [200], has = [\"ok\"] }]"), 16, "`ok` is no JSON pointer"),
        (probe("path = \"/p\"\nexpect = [{ status = [200] }]\nuptime_ms = \"up\""), 16, "`up` is no JSON pointer"),
        (
            probe(&format!("path = \"/p\"\nidentity = \"d\"\nexpect = [{{ status = [200] }}]\n{waits}")),
            16,
            "`d` is no identity",
        ),
        (probe("path = \"/p\"\nidentity = \"c\"\nexpect = [{ status = [200] }]"), 16, "no probe is waited for"),
        (system(&waits.replace("waits = true\n", "")), 16, "no probe is waited for"),
        (probe("path = \"//p\"\nexpect = [{ status = [200] }]"), 16, "must be the path of a request"),
        (probe("path = \"/{x}\"\nexpect = [{ status = [200] }]"), 16, "leaves something open"),
        (probe("path = \"/{workspace}\"\nexpect = [{ status = [200] }]"), 16, "the service has no `workspaces`"),
        (
            probe(
                "path = \"/p\"\nexpect = [{ status = [200] }]\n[[services.probes]]\nname = \"p\"\npath = \"/p\"\nexpect = [{ status = [200] }]",
            ),
            21,
            "the probe `p` is there twice",
        ),
        (row("path = \"/p\"\nanswers = { d = [200] }"), 16, "`d` is no identity"),
        (row("path = \"/p\"\nanswers = { c = [200] }\ndrift = { d = [200] }"), 16, "`d` is no identity"),
        (row("path = \"/p\"\nanswers = {}"), 16, "the row `/p` expects no status"),
        (row("path = \"/p\"\nanswers = { c = [] }"), 16, "the row `/p` expects no status"),
        (row("path = \"/p\"\nanswers = { c = [600] }"), 16, "600 is no HTTP status"),
        (row("path = \"/p\"\nbody = {}\nanswers = { c = [200] }"), 16, "which goes with `POST` alone"),
        (row("path = \"p\"\nanswers = { c = [200] }"), 16, "must be the path of a request"),
        (system(&workspaces.replace("\"c\"", "\"d\"")), 16, "`d` is no identity"),
        (system(&workspaces.replace("\"/c\"", "\"c\"")), 16, "must be the path of a request"),
        (system(&workspaces.replace("\"/i\"", "\"i\"")), 16, "`i` is no JSON pointer"),
        (system(&workspaces.replace("\"A\"", "\"B\"")), 16, "`workspaces` refers to `B`"),
        (system(&workspaces.replace("openwork", "opencode")), 16, "what workspaces of `opencode` are"),
        (system(&sessions.replace("opencode", "openwork")), 16, "what sessions of `openwork` are"),
        (system(&sessions.replace("\"c\"", "\"d\"")), 16, "`d` is no identity"),
        (system(&sessions.replace("\"/h\"", "\"h\"")), 16, "must be the path of a request"),
        (system(&sessions.replace("\"/v\"", "\"v\"")), 16, "`v` is no JSON pointer"),
        (system(&format!("{sessions}messages = \"m\"")), 16, "must be the path of a request"),
        (system(&sessions.replace("?n={limit}", "")), 16, "must hold `{limit}`"),
        (system(&format!("{sessions}healthy = {{ ok = true }}")), 16, "`ok` is no JSON pointer"),
        (system(&format!("{sessions}[services.facts]\nsessions = \"nowhere\"")), 24, "the location `nowhere`"),
        (system(&format!("{workspaces}[services.facts]\ntokens = \"/t\"")), 26, "relative to `data_root`"),
        ("[services.facts]\ntokens = \"t\"".into(), 7, "must say whose workspaces and tokens"),
        (
            location(
                "candidates = [{ variable = \"A\" }]\nfix = { A = \"/data/x\" }\n[services.facts]\nsessions = \"l\"",
            ),
            16,
            "must say whose sessions",
        ),
        (system(&sidecars.replace("\"s\"", "\"/s\"")), 16, "relative to `data_root`"),
        (system(&sidecars.replace("\"A\"", "\"B\"")), 16, "`sidecars` refers to `B`"),
        (system(&format!("{sidecars}variable = \"B\"")), 16, "`sidecars` refers to `B`"),
        (system(&sidecars.replace("https:", "")), 16, "`manifest` is no URL"),
        (system(&format!("{sidecars}overrides = {{ all = \"A\" }}")), 16, "not `all`"),
    ];
    let mut missed = Vec::new();
    for (more, line, says) in cases {
        let found = problems(&more);
        if !(found.len() == 1 && found[0].0 == Some(line) && found[0].1.contains(says)) {
            missed.push(format!("{found:?} instead of {line}: {says} in:\n{MINIMAL}{more}"));
        }
    }
    assert!(missed.is_empty(), "{} cases:\n{}", missed.len(), missed.join("\n\n"));
    assert!(
        Profile::problems("name = \"\"\ncontract_version = \"1\"\nservices = []")[0].says.contains("must not be empty")
    );
    assert!(
        Profile::problems("name = \"x\"\ncontract_version = \"1\"\nservices = []")[0].says.contains("at least one")
    );
}

#[test]
fn all_problems_are_listed_in_order_of_lines() {
    let found = problems("recoverable = [\"/a\"]\nnot_ours = [\"..\"]\n[[services]]\nname = \"\"");
    assert_eq!(found.iter().map(|(line, _)| line.unwrap()).collect::<Vec<_>>(), [7, 8, 10]);
    // What is wrong with a list as a whole is found before what is wrong in it.
    let found = problems("recoverable = [\"/a\"]\n[[services]]\nname = \"s\"");
    assert_eq!(found.iter().map(|(line, _)| line.unwrap()).collect::<Vec<_>>(), [7, 8]);
    // What cannot be read at all comes alone.
    let found = problems("recoverabel = []\nnot_ours = [\"..\"]");
    assert_eq!(found, [(Some(7), "unknown key `recoverabel` (did you mean `recoverable`?)".to_owned())]);
}

#[test]
fn a_location_is_where_the_first_set_variable_says() {
    let openwork = Profile::load("openwork").unwrap();
    let locations = &openwork.volume().unwrap().locations;
    let place = |name: &str, set: &[(&str, &str)]| {
        let location = locations.iter().find(|location| location.name == name).unwrap();
        let value = |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
        location.place(value).map(|(_, path)| path)
    };
    let all =
        [("OPENCODE_DB", "/a/b.db"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h"), ("OPENWORK_SERVER_CONFIG", "/o/s.json")];
    assert_eq!(place("sessions", &all), Some("/a/b.db".into()));
    assert_eq!(place("sessions", &all[1..]), Some("/x/opencode/opencode.db".into()));
    assert_eq!(place("sessions", &all[2..]), Some("/h/.local/share/opencode/opencode.db".into()));
    assert_eq!(place("sessions", &all[3..]), None);
    assert_eq!(place("runtime", &all), Some("/o/runtime.sqlite".into()));
}

#[test]
fn a_condition_holds_of_values_and_never_of_what_cannot_be_seen() {
    let condition = |text: &str| toml::from_str::<Condition>(text).unwrap();
    let value = |name: &str| (name == "A").then(|| "x".to_owned());
    assert!(condition("variable = \"A\"").holds(value) && !condition("variable = \"B\"").holds(value));
    assert!(condition("variable = \"A\"\nis = [\"x\", \"y\"]").holds(value));
    assert!(!condition("variable = \"A\"\nis = [\"y\"]").holds(value));
    assert!(!condition("variable = \"A\"\nis_not = [\"x\"]").holds(value));
    assert!(
        !condition("variable = \"B\"\nis_not = [\"x\"]").holds(value),
        "a variable that is not set is no other value"
    );
    assert!(!condition("variable = \"A\"\nservice = \"t\"").holds(value));
}
