"""Invented film titles, genre by genre: sentence patterns and the words that fill them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_MOST_USES_OF_A_WORD = 3
_A_BEFORE_VOWEL = re.compile(r"\bA(?= [AEIOU])")
_SLOT = re.compile(r"\{(\w+)\}")


def words_of(text: str) -> tuple[str, ...]:
    """`words_of("Rain, Long Frost")` is `("Rain", "Long Frost")`: lists of words that can be read."""
    return tuple(word.strip() for word in text.split(","))


_EVERYWHERE = {
    "name": words_of(
        "Agnes, Bruno, Celeste, Dmitri, Edith, Farah, Gideon, Hana, Ingrid, Jonah, Keiko, Leopold, Marisol, Nadia, "
        "Otis, Petra, Quentin, Rosalind, Samir, Tobias, Ursula, Viktor, Wilhelmina, Yusuf, Zora, Ottilie, Rafael, "
        "Imogen, Casimir, Delphine, Mbali, Anselm, Noor, Cormac, Lucinda, Hiro"
    ),
    "surname": words_of(
        "Ashdown, Bellweather, Calloway, Drummond, Eastlake, Fairbairn, Garrity, Holloway, Iverson, Kessler, "
        "Lindqvist, Mercado, Novak, Okafor, Pemberton, Quill, Rossiter, Sandoval, Thackeray, Underhill, Vance, "
        "Whitlock, Yarrow, Zielinski, Brandt, Corrigan, Delacroix, Moreau, Halvorsen, Tanaka"
    ),
    "city": words_of(
        "Trieste, Lisbon, Marseille, Tangier, Buenos Aires, Kyoto, Montreal, Odessa, Antwerp, Glasgow, Naples, "
        "Istanbul, Havana, Vienna, Oslo, Dakar, Galway, Valparaíso, Kraków, Memphis, Shanghai, Bergen, Cádiz, Riga"
    ),
}


@dataclass(frozen=True)
class _Genre:
    """`{slot}` in a pattern is filled from `words`, or from the words that all genres share."""

    patterns: tuple[str, ...]
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)


_GENRES: dict[str, _Genre] = {
    "Drama": _Genre(
        (
            "The {trade}'s {kin}",
            "What {name} Left Behind",
            "{season} in {city}",
            "The Weight of {thing}",
            "Letters to {name}",
            "{thing} and {other}",
            "A House Without {other}",
            "{count} {season}s",
            "The {trade} of {city}",
            "After the {event}",
            "The Year of the {event}",
        ),
        {
            "trade": words_of(
                "Beekeeper, Piano Tuner, Ferryman, Glassblower, Seamstress, Mapmaker, Stonemason, Translator, "
                "Bookbinder, Night Nurse, Organist, Schoolmaster, Baker, Clockmaker"
            ),
            "kin": words_of("Daughter, Apprentice, Widow, Second Son, Promise, Brother, Inheritance, Silence"),
            "season": words_of("Winter, Autumn, Summer, Harvest"),
            "thing": words_of(
                "Salt, Ordinary Days, Small Mercies, Snow, Borrowed Light, Rain, Paper, Forgiveness, Dust"
            ),
            "other": words_of("Bread, Windows, Honey, Ashes, Mirrors, Silence, Clocks, Apples"),
            "count": words_of("Three, Seven, Forty, Nine, Twelve"),
            "event": words_of("Flood, Funeral, Strike, Long Frost, Recital, Homecoming, Drought, Eclipse"),
        },
    ),
    "Comedy": _Genre(
        (
            "My {adjective} {relative}",
            "How to {feat}",
            "{name} Gets {outcome}",
            "The {adjective} {people}",
            "{surname} vs. the {foe}",
            "{people} Anonymous",
            "Somebody Call {name}",
            "Never Trust a {creature}",
            "The Accidental {role}",
            "Two {people} and a {creature}",
            "{relative} Knows Best, Mostly",
        ),
        {
            "adjective": words_of(
                "Unbearable, Overqualified, Slightly Married, Part-Time, Terribly Polite, Reluctant, Hopeless, "
                "Second-Best, Undercooked, Double-Booked, Well-Meaning, Oversleeping"
            ),
            "relative": words_of(
                "Mother-in-Law, Uncle, Ex-Husband, Grandmother, Landlord, Twin, Stepbrother, Godfather"
            ),
            "feat": words_of(
                "Lose a Wedding, Fake a Sabbatical, Sink a Yacht, Inherit a Goat, Ruin Christmas Politely, "
                "Marry Your Dentist, Quit Gracefully, Steal a Parking Space, Fail Upwards"
            ),
            "outcome": words_of("Promoted, a Dog, Evicted, Away with It, the Joke, a Life, Married Again"),
            "people": words_of(
                "Plumbers, Bridesmaids, Accountants, Houseguests, Tourists, Neighbours, Best Men, Waiters"
            ),
            "foe": words_of("Homeowners, Seagulls, Tax Office, Book Club, Cruise Line, Robot Vacuum, PTA"),
            "creature": words_of("Goose, Llama, Parrot, Consultant, Goat, Caterer, Magician, Ferret"),
            "role": words_of("Mayor, Chef, Sommelier, Groom, Spy, Astronaut, Bishop, Supermodel"),
        },
    ),
    "Thriller": _Genre(
        (
            "The {surname} {paper}",
            "{adjective} Witness",
            "Nobody Leaves {city}",
            "The {ordinal} {stranger}",
            "{hour} to {city}",
            "{adjective} {signal}",
            "Trust No {stranger}",
            "A {stranger} Calls Twice",
            "{count} Minutes from {city}",
            "The {signal}",
            "Cold {trace}",
        ),
        {
            "paper": words_of(
                "Dossier, Protocol, Conspiracy, Transcript, Affidavit, Exchange, Directive, Cipher, Ledger"
            ),
            "adjective": words_of("Silent, Unreliable, Final, Perfect, Blind, Hidden, Hostile, Sleeping, Double"),
            "ordinal": words_of("Second, Third, Fifth, Last, Thirteenth, Missing, Other"),
            "stranger": words_of("Passenger, Courier, Stranger, Neighbour, Juror, Interpreter, Surgeon, Lodger"),
            "hour": words_of("Night Flight, Last Express, Red-Eye, Midnight Ferry, Four Hours"),
            "signal": words_of(
                "Frequency, Deadline, Alibi, Exposure, Signal, Handover, Blackout, Countdown, Ultimatum"
            ),
            "count": words_of("Nine, Thirty, Ninety, Eleven, Six"),
            "trace": words_of("Pursuit, Fingerprints, Evidence, Harbour, Trail, Motive"),
        },
    ),
    "Sci-Fi": _Genre(
        (
            "{star} {drift}",
            "The {star} {event}",
            "Beyond {star}",
            "The Last {crew} of {star}",
            "Project {code}",
            "{drift} {count}",
            "{count} Light-Years from {home}",
            "A {device} for {star}",
            "The {device} {event}",
            "{crew} {count}",
            "The {home} Machine",
            "Echoes of {star}",
        ),
        {
            "star": words_of(
                "Ganymede, Proxima, Vega, Titan, Callisto, Andromeda, Kepler, Europa, Arcturus, Sirius, Oberon, "
                "Tau Ceti, Cassiopeia, Triton, Altair, Phobos"
            ),
            "drift": words_of("Drift, Orbital, Ascending, Horizon, Singularity, Parallax, Perihelion, Vector, Station"),
            "event": words_of("Anomaly, Paradox, Colony, Incident, Transmission, Exodus, Accord, Uprising, Theorem"),
            "crew": words_of("Navigator, Android, Cartographer, Botanist, Sleeper, Gravedigger, Terraformer, Pilot"),
            "code": words_of("Helix, Cobalt, Chimera, Monolith Blue, Lazarus Nine, Ouroboros, Nightjar, Tesseract"),
            "count": words_of("Seven, 2240, Zero, Nineteen, 3001-B, Forty-One, Eight"),
            "home": words_of("Home, Yesterday, Earth, Sunday, Tomorrow, Memory"),
            "device": words_of("Beacon, Quantum Garden, Clone, Time Lock, Ansible, Satellite, Cryostat, Neural Choir"),
        },
    ),
    "Romance": _Genre(
        (
            "Love, {name}",
            "Meet Me in {city}",
            "{name} & {name}",
            "The {shop} on {street}",
            "A {adjective} Kind of {feeling}",
            "{feeling} in {month}",
            "One {month} in {city}",
            "Dear {adjective} Stranger",
            "{count} Kisses",
            "The {city} {keepsake}",
            "Dancing with {name}",
            "Until {month}",
        ),
        {
            "shop": words_of("Bookshop, Flower Stall, Bakery, Little Cinema, Tea Room, Record Store, Letter Writer"),
            "street": words_of(
                "Rosemary Lane, Juniper Street, Canal Row, Larkspur Hill, Lantern Square, Magnolia Avenue"
            ),
            "adjective": words_of("Tender, Reckless, Quiet, Second, Foolish, Faithful, Foreign, Gentle, Stubborn"),
            "feeling": words_of("Yearning, Hello, Devotion, Almost, Goodbye, Heartbreak, Wonder, Forever"),
            "month": words_of("April, September, June, February, October, May, November"),
            "count": words_of("A Thousand, Seventeen, Eleven, Four, Ninety-Nine"),
            "keepsake": words_of("Postcard, Waltz, Proposal, Honeymoon, Serenade, Bouquet, Engagement"),
        },
    ),
    "Horror": _Genre(
        (
            "The {thing} in the {room}",
            "Don't {deed}",
            "{surname} House",
            "The {adjective} {thing}",
            "It {came} at {hour}",
            "Beneath {place}",
            "{place} {thing}",
            "The {surname} {rite}",
            "{rite} of the {adjective}",
            "What Lives in the {room}",
            "The {room}",
        ),
        {
            "thing": words_of("Whistler, Hollow, Doll, Visitor, Scarecrow, Crawler, Pale Man, Choir, Shepherd, Moth"),
            "room": words_of("Cellar, Attic, Root House, Nursery, Well, Boiler Room, Crypt, Guest Room, Orchard"),
            "deed": words_of("Answer the Door, Blink, Wake Her, Look Under, Say His Name, Count to Ten, Go Upstairs"),
            "adjective": words_of("Unburied, Grinning, Starving, Faceless, Drowned, Nameless, Sleepless, Crooked"),
            "came": words_of("Knocked, Came Back, Woke, Fed, Smiled"),
            "hour": words_of("Dusk, Midnight, Three A.M., Low Tide, Vespers"),
            "place": words_of(
                "Black Fen, Hangman's Moor, Wither Lake, Gallows End, Saint Mordaunt, Bleak Hollow, Grave Isle"
            ),
            "rite": words_of("Séance, Exhumation, Curse, Vigil, Haunting, Feast, Inheritance, Communion"),
        },
    ),
    "Adventure": _Genre(
        (
            "The {treasure} of {land}",
            "{name} {surname} and the {treasure}",
            "Journey to {land}",
            "The {land} Expedition",
            "Beyond the {wild}",
            "The {adjective} {wild}",
            "Race for the {treasure}",
            "{wild} of {peril}",
            "Castaways of {land}",
            "The Road of {peril}",
        ),
        {
            "treasure": words_of(
                "Jade Compass, Sunken Crown, Emerald Idol, Scarlet Map, Ivory Key, Ninth Pearl, Bronze Falcon, "
                "Golden Astrolabe, Serpent's Eye, Lost Meridian"
            ),
            "land": words_of(
                "Zanzara, Kalimbo, Tierra Honda, Xanthu, Cape Tempest, the Coral Kingdom, Mount Arrakai, Isla Perdida, "
                "the Saffron Desert, Thunder Bay, Samarra"
            ),
            "wild": words_of("Glacier, Rapids, Monsoon, Canyon, Archipelago, Jungle, Ice Shelf, Dunes, Cataract"),
            "adjective": words_of("Forgotten, Uncharted, Thundering, Endless, Frozen, Burning, Vanishing"),
            "peril": words_of("Peril, Tigers, Storms, Thieves, Giants, Fire, Shipwrecks"),
        },
    ),
    "Fantasy": _Genre(
        (
            "The {creature} of {realm}",
            "{name} and the {relic}",
            "The {relic} {saga}",
            "{realm}",
            "The {adjective} {monarch}",
            "{saga} of the {creature}",
            "Sisters of {realm}",
            "The {monarch} and the {creature}",
            "A Crown of {matter}",
            "{matter} and {other}",
            "Song of {realm}",
        ),
        {
            "creature": words_of(
                "Dragon, Griffin, Wyrm, Firebird, Stag King, Giant, Selkie, Basilisk, Unicorn, Raven Queen"
            ),
            "realm": words_of(
                "Eldermere, Thornhall, Avarion, Mistwood, Caer Dunnan, Isenvale, Lowmarrow, Silverfall, Wyndgarde, "
                "Hollin Keep, Ravenspire, Summerdeep"
            ),
            "relic": words_of(
                "Moonstone, Whispering Sword, Glass Harp, Ember Throne, Bone Flute, Oaken Ring, Mirror Gate"
            ),
            "saga": words_of("Prophecy, Chronicle, Oath, Legacy, Reckoning, Awakening"),
            "adjective": words_of("Clockwork, Sleeping, Winter, Exiled, Painted, Moonlit, Beggar"),
            "monarch": words_of("Sorceress, Prince, Witch, Enchanter, Princess, Warlock, Changeling, Knight"),
            "matter": words_of("Thistles, Starlight, Feathers, Embers, Ivy, Frost, Antlers"),
            "other": words_of("Iron, Bramble, Thunder, Shadow, Willow, Gold"),
        },
    ),
    "Family": _Genre(
        (
            "{pet} the {animal}",
            "The {adjective} Little {vehicle}",
            "{animal} Academy",
            "{pet} Saves {feast}",
            "The {animal} Who {wish}",
            "Adventures in {land}",
            "{pet} and {name}",
            "A {vehicle} for {feast}",
            "The Great {animal} Parade",
            "Goodnight, {pet}",
            "{adjective} {crowd}",
        ),
        {
            "pet": words_of(
                "Pickles, Biscuit, Mr. Noodle, Pepper, Waffles, Barnaby, Tumble, Marzipan, Button, Clementine"
            ),
            "animal": words_of(
                "Penguin, Hedgehog, Otter, Badger, Piglet, Moose, Hippo, Firefly, Walrus, Puffin, Tortoise"
            ),
            "adjective": words_of("Fearless, Grumpy, Wobbly, Marvellous, Rusty, Curious, Upside-Down, Sleepy"),
            "vehicle": words_of("Tugboat, Balloon, Steam Train, Snowplough, Submarine, Tram, Spaceship"),
            "feast": words_of("Christmas, the Circus, the Snow Day, the Bakery, Grandpa, the Moon"),
            "crowd": words_of("Penguins, Otters, Piglets, Puffins, Hedgehogs, Pirates, Knights"),
            "wish": words_of("Couldn't Swim, Learned to Fly, Ate the Moon, Wanted Snow, Sang, Missed the Bus"),
            "land": words_of(
                "Button Town, Marmalade Valley, the Toy Hospital, Puddleton, the Land of Socks, Cloud Harbour"
            ),
        },
    ),
    "Crime": _Genre(
        (
            "The {city} Job",
            "{surname}'s {number}",
            "Blood on {street}",
            "The {adjective} {crook}",
            "{surname} & {kin}",
            "{crook} of {city}",
            "{day} at the {venue}",
            "Dirty {money}",
            "The {venue} Murders",
            "Inspector {surname} Regrets",
            "A {crook}'s {money}",
        ),
        {
            "number": words_of("Eight, Rules, Crew, Last Score, Debt, Razor, Confession"),
            "street": words_of("Dockside, Canal Street, Pier Nineteen, Mulberry Row, Tenth Avenue, the Boulevard"),
            "adjective": words_of("Gentleman, Velvet, Crooked, Left-Handed, Honest, Gilded, Broken"),
            "crook": words_of("Safecracker, Bookmaker, Forger, Fence, Kingpin, Informant, Getaway Man, Pickpocket"),
            "kin": words_of("Sons, Associates, Daughters, Partner, Company"),
            "day": words_of("Sunday, Payday, Friday Night, Christmas Eve, Closing Time"),
            "venue": words_of("Racetrack, Savings Bank, Harbour Club, Courthouse, Laundry, Starlite Diner, Opera"),
            "money": words_of("Silver, Diamonds, Hands, Alibi, Money, Share, Promise"),
        },
    ),
    "Documentary": _Genre(
        (
            "The Secret Life of {subjects}",
            "Inside the {place}",
            "{count} Days in {city}",
            "{subjects}: A {history}",
            "Who Owns the {common}?",
            "The {trade}s of {city}",
            "{common}, Interrupted",
            "Counting {subjects}",
            "{name} {surname}: {angle}",
            "The Last {place}",
        ),
        {
            "subjects": words_of(
                "Lichens, Eels, Lighthouses, Swifts, Glaciers, Typefaces, Mushrooms, Elevators, Tides, Bees"
            ),
            "place": words_of(
                "Seed Vault, Container Port, Observatory, Newsroom, Night Market, Paper Mill, Record Plant"
            ),
            "count": words_of("A Hundred, Eighteen, Forty, Sixty, Two Hundred"),
            "history": words_of("History, Love Story, People's History, Biography, Reckoning"),
            "common": words_of("Rain, River, Moon, Harvest, Arctic, Internet, Alphabet, Night Sky"),
            "trade": words_of("Bicycle Courier, Wrestler, Chess Master, Taxi Driver, Street Singer, Surfer"),
            "angle": words_of("In Her Own Words, The Lost Tapes, A Life in Colour, Unfinished Work, Against the Grain"),
        },
    ),
    "War": _Genre(
        (
            "The Bridge at {front}",
            "{count} Soldiers",
            "The {front} Line",
            "Letters from {front}",
            "The {ordinal} {unit}",
            "{season} Offensive",
            "Before {front} Fell",
            "The {trade} of {front}",
            "{unit} {letter}",
            "No {lack} at {front}",
        ),
        {
            "front": words_of(
                "Arnhoven, Kostrava, Saint-Aubert, Monte Riva, Halden Ridge, Port Selwyn, Verlaine, Tolmin, Ostrov"
            ),
            "count": words_of("Eleven, Six, Two Thousand, A Hundred, Three"),
            "ordinal": words_of("Fourth, Ninth, Lost, Forgotten, Twenty-First"),
            "unit": words_of("Battalion, Squadron, Convoy, Regiment, Company, Platoon, Flotilla"),
            "season": words_of("Winter, Spring, Autumn, Dawn"),
            "trade": words_of("Bugler, Codebreaker, Medic, Deserter, Chaplain, Radio Operator, Sniper"),
            "letter": words_of("Baker, Nine, Zulu, Forty-Four, Romeo"),
            "lack": words_of("Surrender, Christmas, Medals, Birds, Ceasefire"),
        },
    ),
    "Western": _Genre(
        (
            "Last Train to {town}",
            "{town}",
            "The {adjective} {rider}",
            "Gunsmoke over {town}",
            "{count} Graves at {town}",
            "Ride, {surname}, Ride",
            "The {surname} Brothers",
            "{rider} of {town}",
            "{adjective} Spurs",
            "A Noose for {name} {surname}",
        ),
        {
            "town": words_of(
                "Cold Creek, Perdition, Dry Fork, Amarosa, Buzzard Gap, Red Mesa, Sorrow Springs, Tumbleweed, "
                "Coffin Rock, Santa Ynes"
            ),
            "adjective": words_of("Tarnished, Lonesome, Hired, Silver, One-Eyed, Unforgiving, Dusty"),
            "rider": words_of("Drifter, Marshal, Bounty Man, Preacher, Outlaw, Stage Driver, Horse Thief"),
            "count": words_of("Three, Five, Thirteen, Two"),
        },
    ),
    "Action": _Genre(
        (
            "{adjective} {strike}",
            "{strike} Force {count}",
            "The {city} {chase}",
            "{surname}: {slogan}",
            "Operation {code}",
            "{slogan}",
            "{count} Seconds to {strike}",
            "{code} Rising",
            "Hard {chase}",
            "Agent {surname}",
            "{adjective} {chase}",
        ),
        {
            "adjective": words_of("Terminal, Maximum, Burning, Rogue, Relentless, Full, Steel, Savage"),
            "strike": words_of("Impact, Vengeance, Thunder, Velocity, Recoil, Detonation, Payload, Firestorm"),
            "count": words_of("Nine, Sixty, Zero, Ten, Five"),
            "chase": words_of("Pursuit, Extraction, Getaway, Ambush, Siege, Landing, Showdown"),
            "slogan": words_of("No Way Down, Kill Switch, Last Man Out, Out of Ammo, Shoot First, No Safe Harbour"),
            "code": words_of("Iron Tide, Black Condor, Scorpion, Avalanche, Viper, Northern Fury, Hammerhead"),
        },
    ),
}

GENRES: tuple[str, ...] = tuple(_GENRES)

_SEQUELS = ("{title} II", "{title}: Aftermath", "{title}: The Return", "{title}: Legacy", "{title}: Origins")
_LIGHT_SEQUELS = ("{title} 2", "{title}, Again", "{title} Too")
_LIGHT_GENRES = ("Comedy", "Family", "Romance")


def titles(genres: Sequence[str], generator: np.random.Generator) -> list[str]:
    """One title per entry of `genres`, all different; no filling word appears more than a few times."""
    uses: Counter[str] = Counter()
    taken: set[str] = set()
    waiting: dict[str, list[str]] = {}
    made = []
    for genre in genres:
        title = _new_title(genre, waiting.setdefault(genre, []), uses, taken, generator)
        taken.add(title)
        made.append(title)
    return made


def sequel_of(title: str, genre: str, generator: np.random.Generator) -> str:
    """`Cold Creek` becomes `Cold Creek II` or the like; what is light stays light."""
    forms = _LIGHT_SEQUELS if genre in _LIGHT_GENRES else _SEQUELS
    return forms[int(generator.integers(len(forms)))].format(title=title)


def _new_title(
    genre: str, waiting: list[str], uses: Counter[str], taken: set[str], generator: np.random.Generator
) -> str:
    """The next pattern in turn, filled with words that are not worn out; after 50 tries any new title will do."""
    for attempt in range(10_000):
        if not waiting:
            waiting.extend(generator.permutation(_GENRES[genre].patterns).tolist())
        title, words = _fill(waiting.pop(), genre, generator)
        is_fresh = attempt >= 50 or all(uses[f"{genre} {word}"] < _MOST_USES_OF_A_WORD for word in words)
        if title not in taken and is_fresh and len(set(words)) == len(words):
            uses.update(f"{genre} {word}" for word in words)
            return title
    raise ValueError(f"no more titles for the genre {genre}")


def _fill(pattern: str, genre: str, generator: np.random.Generator) -> tuple[str, list[str]]:
    words: list[str] = []

    def word(slot: re.Match[str]) -> str:
        choices = _GENRES[genre].words.get(slot[1]) or _EVERYWHERE[slot[1]]
        words.append(choices[int(generator.integers(len(choices)))])
        return words[-1]

    return _A_BEFORE_VOWEL.sub("An", _SLOT.sub(word, pattern)), words
