use super::*;

#[test]
fn a_full_file_is_read() {
    let config = FileConfig::parse(
        "version = 1\nnetwork = \"n.toml\"\n[node]\nroles = [\"storage\"]\ngive = \"500GB\"\nkeep_free = 10\n\
         inbound_per_subnet = 7\ngeoip = \"city.mmdb\"\ngeoip_asn = \"asn.mmdb\"\n\
         [owner]\nexclude = [\"*.o\"]\n",
    )
    .expect("valid");
    assert_eq!(config.node.give, Some(ByteSize(500_000_000_000)));
    assert_eq!(config.node.keep_free, Some(ByteSize(10)));
    assert_eq!(config.node.inbound_per_subnet, Some(7));
    let files = [config.node.geoip, config.node.geoip_asn].map(|path| path.map(|p| p.display().to_string()));
    assert_eq!(files, [Some("city.mmdb".to_owned()), Some("asn.mmdb".to_owned())]);
    assert_eq!(config.owner.exclude, Some(vec!["*.o".to_owned()]));
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let check = |text: &str, message: &str, hint: &str| {
        let wrong = FileConfig::parse(text).expect_err("unknown");
        assert_eq!((wrong.message.as_str(), wrong.hint.as_str()), (message, hint));
    };
    check("[node]\ngiv = 1\n", "unknown key `node.giv`", "did you mean `node.give`?");
    check("[node]\nregions = \"EU\"\n", "unknown key `node.regions`", "did you mean `node.region`?");
    check("listen = []\n", "unknown key `listen`", "did you mean `node.listen`?");
    check("[nodes]\n", "unknown key `nodes`", "did you mean `node`?");
    check("[quite.something]\nelse = 1\n", "unknown key `quite`", "");
}

#[test]
fn wrong_values_are_refused() {
    assert!(FileConfig::parse("[node]\ngive = \"a lot\"\n").is_err());
    assert!(FileConfig::parse("version = 2\n").is_err());
    assert!(FileConfig::parse("not toml").is_err());
}

#[test]
fn ranks_are_flag_file_default() {
    assert_eq!(Setting::flag(Some(1)).or(Some(2)).or_default(3), 1);
    assert_eq!(Setting::flag(None).or(Some(2)).or_default(3), 2);
    assert_eq!(Setting::<u8>::flag(None).or(None).or_default(3), 3);
}

#[test]
fn mistakes_name_their_line() {
    let message = |text: &str| FileConfig::parse(text).expect_err("wrong").message;
    assert_eq!(message("version = 1\nbad = ["), "line 2: unclosed array, expected `]`");
    assert!(message("[owner]\nexclude = \"a\"\n").contains("owner.exclude"));
}

#[test]
fn timers_are_named_in_seconds() {
    let config = FileConfig::parse("[timers]\nscale = 0.01\nhome_gone = 3600\nlook = 0.5\n").expect("valid");
    assert_eq!(
        (config.timers.scale, config.timers.home_gone, config.timers.look),
        (Some(0.01), Some(3600.0), Some(0.5))
    );
    let wrong = FileConfig::parse("[timers]\nhome_gne = 1\n").expect_err("unknown");
    assert_eq!(wrong.hint, "did you mean `timers.home_gone`?");
}

#[test]
fn fallback_storage_is_a_list() {
    let config = FileConfig::parse(
        "[[fallback]]\nname = \"nas\"\nkind = \"folder\"\npath = \"/mnt/nas\"\n\
         [[fallback]]\nname = \"s3\"\nkind = \"s3\"\nbucket = \"b\"\n",
    )
    .expect("valid");
    assert_eq!(config.fallback.len(), 2);
    assert_eq!(config.fallback[0].path, Some("/mnt/nas".into()));
    let hint = |text: &str| FileConfig::parse(text).expect_err("wrong").hint;
    assert_eq!(hint("[[fallback]]\nname = \"a\"\nbuket = \"b\"\n"), "did you mean `fallback.bucket`?");
    assert_eq!(hint("[[falback]]\nname = \"a\"\n"), "did you mean `fallback`?");
    assert!(FileConfig::parse("fallback = 7\n").is_err());
    assert!(FileConfig::parse("[fallback]\nname = \"a\"\n").is_err(), "one pair of brackets is another thing");
}
