//! Words the world is named with; none of the names made from them is meant to be anyone's.

pub(crate) const FIRST_NAMES: &[&str] = &[
    "Ada", "Bruno", "Clara", "Dario", "Edith", "Felix", "Greta", "Hugo", "Irma", "Jonas", "Karin", "Leon", "Mira", "Nils", "Olga", "Pavel",
    "Rosa", "Simon", "Thea", "Viktor",
];

pub(crate) const LAST_NAMES: &[&str] = &[
    "Alder", "Birch", "Corbin", "Drake", "Ember", "Falk", "Garnet", "Hale", "Ingram", "Jasper", "Kestrel", "Lindner", "Marsh", "Norden",
    "Orchard", "Pike", "Quill", "Reed", "Sorrel", "Thorn", "Umber", "Vance", "Wexley", "Yarrow",
];

/// Nicknames of people.
pub(crate) const NICKNAMES: &[&str] = &[
    "the Badger",
    "the Comet",
    "the Dove",
    "the Eagle",
    "the Falcon",
    "the Giant",
    "the Hermit",
    "the Jackdaw",
    "the Lantern",
    "the Magpie",
    "the Needle",
    "the Otter",
    "the Pilgrim",
    "the Raven",
    "the Sparrow",
    "the Tinker",
    "the Wanderer",
    "the Anchor",
    "the Beacon",
    "the Cricket",
    "the Drummer",
    "the Ferryman",
    "the Heron",
    "the Juggler",
    "the Kite",
    "the Lynx",
    "the Miller",
    "the Nightingale",
    "the Oracle",
    "the Painter",
    "the Ranger",
    "the Sailor",
    "the Tortoise",
    "the Watchman",
    "the Weaver",
    "the Acrobat",
    "the Baker",
    "the Cartographer",
    "the Digger",
    "the Emperor",
];

pub(crate) const COUNTRIES: &[&str] = &[
    "Norland", "Velmark", "Astoria", "Corvania", "Drelund", "Estavia", "Fennmark", "Galdor", "Hestria", "Ilmaren", "Jorvia", "Kelland",
    "Lusania", "Morvia", "Nerendal", "Ostmark", "Pelagia", "Quendor", "Rovania", "Sudmark",
];

/// Other names of the countries, in the same order.
pub(crate) const COUNTRY_ALIASES: &[&str] = &[
    "the Land of Fjords",
    "the Plain Kingdom",
    "the Starry Republic",
    "the Wine Coast",
    "the Realm of Mist",
    "the Eastern Isles",
    "the Country of Moors",
    "the Iron Valley",
    "the Sunny Shore",
    "the Lake Union",
    "the Sheep Country",
    "the Mountain League",
    "the Land of Light",
    "the Free Cantons",
    "the River State",
    "the Amber March",
    "the Thousand Bays",
    "the Crown of Salt",
    "the Birch Republic",
    "the Southern Marches",
];

pub(crate) const CITIES: &[&str] = &[
    "Tarnholm", "Belwick", "Corford", "Dunmere", "Elstow", "Farrow", "Grimsby", "Halden", "Istra", "Jarrow", "Kelso", "Lorne", "Maldon",
    "Narvik", "Oakham", "Penrith", "Quorn", "Ripley", "Selby", "Tilbury", "Ulster", "Varna", "Wells", "Yeovil", "Zelten", "Ambers",
    "Brock", "Calder", "Dover", "Evesham", "Flint", "Goole", "Hythe", "Ilford", "Keswick", "Ludlow", "Morley", "Newark", "Olney", "Purton",
];

pub(crate) const LANGUAGES: &[&str] =
    &["Velic", "Astorian", "Corvan", "Drelic", "Fennish", "Galdic", "Hestrian", "Ilmari", "Kellish", "Lusan", "Morvic", "Ostian"];

pub(crate) const INSTRUMENTS: &[&str] =
    &["harp", "flute", "cello", "drum", "organ", "lute", "horn", "viola", "banjo", "piano", "oboe", "trumpet"];

pub(crate) const COMPANIES: &[&str] = &[
    "Silver Mills",
    "Granite Bank",
    "Copper Works",
    "Cedar Press",
    "Harbor Lines",
    "Summit Motors",
    "Prairie Foods",
    "Glacier Labs",
    "Meadow Paper",
    "Cobalt Glass",
    "Juniper Tea",
    "Falcon Air",
    "Orchid Films",
    "Timber Trust",
    "Velvet Shoes",
    "Beacon Books",
];

pub(crate) const WORKS: &[&str] = &[
    "Red Garden",
    "Blue Harbor",
    "Silent River",
    "Golden Bridge",
    "Broken Mirror",
    "Hidden Valley",
    "Winter Road",
    "Summer House",
    "Iron Tower",
    "Paper Moon",
    "Stone Forest",
    "Glass Island",
    "Last Train",
    "First Snow",
    "Long Night",
    "Dark Orchard",
    "White Horses",
    "Green Lantern",
    "Lost Letters",
    "Old Clock",
    "Burning Field",
    "Sleeping City",
    "Hollow Crown",
    "Distant Bells",
];
