use proptest::prelude::*;

use super::*;

/// The towns that decide, with latitude and longitude in degrees (GeoNames); a few that do not, to show that they do not.
const TOWNS: [(&str, &str, f64, f64); 52] = [
    ("AF", "Mindelo", 16.89, -24.98),
    ("AF", "Praia", 14.93, -23.51),
    ("AF", "Dakar", 14.69, -17.44),
    ("AF", "Freetown", 8.48, -13.23),
    ("AF", "Port Mathurin", -19.68, 63.42),
    ("AF", "Victoria", -4.62, 55.45),
    ("AF", "Georgetown, Ascension", -7.93, -14.42),
    ("AF", "Cape Town", -33.92, 18.42),
    ("AF", "Luanda", -8.84, 13.23),
    ("AS", "Anadyr", 64.73, 177.51),
    ("AS", "Petropavlovsk-Kamchatsky", 53.02, 158.65),
    ("AS", "Tokyo", 35.69, 139.69),
    ("AS", "Izmir", 38.4, 27.1),
    ("AS", "Haifa", 32.82, 34.99),
    ("AS", "Aden", 12.78, 45.04),
    ("EU", "Anadyr", 64.73, 177.51),
    ("EU", "Petropavlovsk-Kamchatsky", 53.02, 158.65),
    ("EU", "Reykjavik", 64.14, -21.94),
    ("EU", "Akureyri", 65.68, -18.1),
    ("EU", "Horta", 38.53, -28.63),
    ("EU", "Las Palmas", 28.1, -15.42),
    ("EU", "Santa Cruz de Tenerife", 28.47, -16.25),
    ("EU", "Funchal", 32.65, -16.91),
    ("EU", "Vladivostok", 43.12, 131.89),
    ("EU", "Yuzhno-Sakhalinsk", 46.96, 142.73),
    ("EU", "Lisbon", 38.72, -9.14),
    ("NA", "Nuuk", 64.18, -51.72),
    ("NA", "Saint John's", 47.56, -52.71),
    ("NA", "Anchorage", 61.22, -149.9),
    ("NA", "Fairbanks", 64.84, -147.72),
    ("NA", "Bridgetown", 13.1, -59.62),
    ("NA", "Fort-de-France", 14.6, -61.07),
    ("NA", "Hamilton", 32.29, -64.78),
    ("NA", "Honolulu", 21.31, -157.86),
    ("SA", "Natal", -5.79, -35.21),
    ("SA", "Fernando de Noronha", -3.85, -32.42),
    ("SA", "Fortaleza", -3.73, -38.52),
    ("SA", "Cayenne", 4.92, -52.31),
    ("SA", "Hanga Roa", -27.15, -109.43),
    ("SA", "Punta Arenas", -53.16, -70.91),
    ("SA", "Stanley", -51.7, -57.85),
    ("SA", "Puerto Ayora", -0.74, -90.31),
    ("OC", "Saipan", 15.18, 145.75),
    ("OC", "Hagatna", 13.47, 144.75),
    ("OC", "West Island, Cocos", -12.19, 96.83),
    ("OC", "Carnarvon", -24.88, 113.66),
    ("OC", "Geraldton", -28.77, 114.61),
    ("OC", "Papeete", -17.55, -149.56),
    ("OC", "Adamstown", -25.07, -130.1),
    ("OC", "Dunedin", -45.87, 170.5),
    ("OC", "Invercargill", -46.41, 168.35),
    ("OC", "Honolulu", 21.31, -157.86),
];

fn great_circle_km(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (a, b) = ((a.0.to_radians(), a.1.to_radians()), (b.0.to_radians(), b.1.to_radians()));
    let half = ((b.0 - a.0) / 2.0).sin().powi(2) + a.0.cos() * b.0.cos() * ((b.1 - a.1) / 2.0).sin().powi(2);
    2.0 * 6371.0 * half.sqrt().asin()
}

fn region(text: &str) -> Region {
    Region::new(text).expect("valid")
}

/// The table is the towns' distances less a tenth, and no more than that.
#[test]
fn the_table_is_what_the_towns_say() {
    for (a, b, listed) in LEAST_KM {
        let of = |code| TOWNS.iter().filter(move |(continent, ..)| *continent == code);
        let pairs = of(a).flat_map(|x| of(b).map(move |y| (x, y)));
        let nearest = pairs.map(|(x, y)| great_circle_km((x.2, x.3), (y.2, y.3))).fold(f64::INFINITY, f64::min);
        let listed = f64::from(listed);
        assert!(listed <= 0.9 * nearest && listed > 0.88 * nearest, "{a}-{b}: {listed} listed, {nearest:.0} reckoned");
    }
}

#[test]
fn the_address_goes_before_the_word() {
    let said = |declared: &str, located: &str| believed(&region(declared), Some(&region(located)));
    assert_eq!(said("SA/BR", "EU/DE"), (region("EU/DE"), Basis::Overruled { declared: region("SA/BR") }), "GEO-2");
    assert_eq!(said("EU/FR/PAR", "EU/DE"), (region("EU/DE"), Basis::Overruled { declared: region("EU/FR/PAR") }));
    assert_eq!(said("EU/DE/FSN", "EU/DE/SN"), (region("EU/DE/FSN"), Basis::Declared), "zones are the operator's names");
    assert_eq!(said("eu/de", "EU/DE"), (region("eu/de"), Basis::Declared));
    assert_eq!(said("EU", "EU/DE"), (region("EU/DE"), Basis::Located), "the more precise of two that agree");
    assert_eq!(said("", "EU/DE"), (region("EU/DE"), Basis::Located));
    assert_eq!(said("Atlantis", "EU/DE"), (region("EU/DE"), Basis::Overruled { declared: region("Atlantis") }));
    assert_eq!(said("EU", ""), (region("EU"), Basis::Declared));
    assert_eq!(believed(&region(""), None), (Region::unknown(), Basis::Unsaid));
}

#[test]
fn light_is_not_outrun() {
    let seen = |here: &str, declared: &str, rtt| {
        let (here, declared) = (region(here), region(declared));
        judge(Clues { declared: &declared, located: None, least_rtt_ms: rtt, here: &here })
    };
    let too_quick = Basis::TooQuick { claimed: region("SA/BR"), rtt_ms: 22, least_ms: 23 };
    assert_eq!(seen("EU/DE", "SA/BR", Some(22)), (Region::unknown(), too_quick.clone()), "GEO-1");
    assert_eq!(seen("EU/DE", "SA/BR", Some(23)), (region("SA/BR"), Basis::Declared));
    assert_eq!(seen("EU/DE", "SA/BR", None), (region("SA/BR"), Basis::Declared), "nothing was measured");
    assert_eq!(seen("", "SA/BR", Some(0)), (region("SA/BR"), Basis::Declared), "we do not know where we are");
    assert_eq!(seen("EU/ES", "AF/MA", Some(0)), (region("AF/MA"), Basis::Declared), "fourteen kilometres");
    assert_eq!(seen("sa", "eu", Some(3)).0, Region::unknown(), "in any letters");
    assert_eq!(seen("lab", "SA", Some(0)).0, region("SA"), "a name of somebody's own is nowhere");
    let text = "not SA/BR: it answers within 22 ms, and light takes 23 ms at least";
    assert_eq!(too_quick.to_string(), text);

    // Nor by a file that errs.
    let (here, located) = (region("EU/DE"), region("AS/JP"));
    let clues = Clues { declared: &region("SA"), located: Some(&located), least_rtt_ms: Some(1), here: &here };
    assert_eq!(judge(clues).0, region("AS/JP"), "Europe and Asia touch");
    let clues = Clues { declared: &located, located: Some(&region("OC/NZ")), least_rtt_ms: Some(1), here: &here };
    assert_eq!(judge(clues).0, Region::unknown());
}

proptest! {
    /// Nobody who is where he says is ever disbelieved: his answer takes what light takes over the distance of the two
    /// towns, or longer.
    #[test]
    fn an_honest_peer_is_believed(a in 0usize..TOWNS.len(), b in 0usize..TOWNS.len(), slower in 0u32..200) {
        let (here, there) = (TOWNS[a], TOWNS[b]);
        let light = great_circle_km((here.2, here.3), (there.2, there.3)) / 149.9;
        let (declared, here) = (region(there.0), region(here.0));
        let rtt = Some(light as u32 + slower);
        let (found, _) = judge(Clues { declared: &declared, located: None, least_rtt_ms: rtt, here: &here });
        prop_assert_eq!(found, declared);
        prop_assert_eq!(least_rtt_ms(&here, &region(there.0)), least_rtt_ms(&region(there.0), &here));
    }
}
