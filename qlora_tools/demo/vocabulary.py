"""Word lists and phrasings of the demonstration dataset.

A `Pool` has values that both splits may use and values kept for the held-out split, which no other list repeats. In a
phrasing, `{on}` or `{off}` also decides the answer. Phrasings never begin with a free value, so that capitalising a
sentence leaves every value as it was.
"""

from typing import NamedTuple


class Pool(NamedTuple):
    """Values of one kind, split by who may use them."""

    shared: tuple[str, ...]
    held_out: tuple[str, ...]


class Phrasings(NamedTuple):
    """Sentence patterns of one call: commands read well after "could you", plain ones do not."""

    commands: tuple[str, ...]
    plain: tuple[str, ...]


class ListKind(NamedTuple):
    """One kind of list: what it is called and what goes on it."""

    names: Pool
    items: Pool


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def _pool(shared: str, held_out: str) -> Pool:
    return Pool(_words(shared), _words(held_out))


def _alternatives(text: str) -> tuple[str, ...]:
    return tuple(text.split(" | "))


def _phrasings(commands: str, plain: str) -> Phrasings:
    return Phrasings(_alternatives(commands), _alternatives(plain))


ATTENTION = _words("hey, okay, hi there, right, um, so, oh, quick one, one more thing, before I forget")
DEFERENCE = _words(
    "when you get a chance, if you can, when you have a second, if you don't mind, whenever you're ready"
)
QUESTIONS = _words("could you, can you, would you, will you, could you please, can you please, could you just")
REQUESTS = _words("please, just, go ahead and, I'd like you to, I need you to, I want you to, please just")
THANKS = _words("thanks, thank you, cheers, thanks a lot")

WEEKDAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
HOURS = _words("five, six, seven, eight, nine")
DELAYS = _words("five, ten, fifteen, twenty, twenty-five, thirty, forty, forty-five, fifty")

NAMES = _pool(
    "Maya, Leo, Priya, Tom, Nadia, Omar, Grace, Felix, Ines, Kofi, Hanna, Diego, Yuki, Sam, Elif, Marco, Ruth, Anton, "
    "Chloe, Ravi, Sofia, Ben, Amara, Lucas, Freya, Hugo, Lena, Pablo, Zara, Ivan, Nora, Theo, Mina, Oscar, Tess, "
    "Jonas, Alice, Karim, Vera, Mum, Dad, Grandma",
    "Bruno, Signe, Tariq, Wanda, Emeka, Juno, Silvia, Quentin, Mirela, Harriet, Dmitri, Olive, Paulo, Xenia, Grandpa",
)
ROOMS = _pool(
    "kitchen, living room, bedroom, bathroom, hallway, garage, office, nursery, guest room, attic, dining room, study, "
    "playroom, laundry room, library, workshop, loft, cellar",
    "conservatory, basement, spare room, sunroom, utility room, music room",
)

TIMER_LABELS = _pool(
    "pasta, rice, laundry, pizza, tea, homework, reading, meditation, bread, porridge, soup, stretching, coffee, yoga, "
    "piano practice, revision, broccoli, salmon, risotto, couscous, curry, lasagne, gravy, dough, chess, screen time, "
    "cleaning, hair dye, toast",
    "sourdough, quinoa, spaghetti, polenta, guitar practice, painting, jam, ramen, tidying, dumplings",
)
TIMER = _phrasings(
    "set a timer called {label} for {duration} | start {sized} timer called {label} | "
    "set {sized} timer for {label} | set a {label} timer for {duration} | "
    "make {sized} timer and call it {label} | set a timer for {duration} and name it {label} | "
    "run a {label} timer for {duration}",
    "I need {sized} timer for {label} | I'd like a {label} timer for {duration} | "
    "new timer, {duration}, called {label} | timer for {label}, {duration} | start a {label} timer, {duration}",
)

# Texts never say "you" or "your": whether to turn them into the assistant's "they" would be open.
TEXTS = _alternatives(
    "I'm running late | I'll be {delay} minutes late | I'm on my way to the {place} | I just left the {place} | "
    "I'm still at the {place} | I'll pick up {food} on the way home | I'm bringing {food} tonight | "
    "we need more {food} | the {thing} has arrived | the {thing} is on the kitchen table | the {thing} is in the car | "
    "I found the {thing} | I can't find the {thing} | I left the {thing} at the {place} | "
    "dinner is at {hour} tonight | the meeting moved to {day} | I can't make it on {day} | "
    "practice is cancelled on {day} | we are meeting at the {place} at {hour} | I'll call back in {delay} minutes | "
    "I put {food} in the fridge"
)
PLACES = _pool(
    "station, office, gym, library, airport, supermarket, dentist, school, market, pharmacy, beach, cinema, bank, "
    "museum, bakery, hotel",
    "harbour, garden centre, stadium, vet, post office, theatre, tram stop",
)
FOODS = _pool(
    "bread, pizza, salad, milk, dessert, noodles, cheese, coffee, soup, cake, fruit, ice cream, juice, pie, sushi",
    "trifle, pancakes, smoothies, brownies, doughnuts, olives, tacos",
)
THINGS = _pool(
    "parcel, umbrella, charger, laptop, passport, toolbox, guitar, blue folder, rucksack, "
    "bike pump, camera, tent, spare key, projector, suitcase",
    "drill, toaster, violin, red scarf, kettle, birthday card, tripod, invoice, picnic blanket",
)
MESSAGE = _phrasings(
    "tell {to} {text} | tell {to} that {text} | let {to} know {text} | let {to} know that {text} | "
    "text {to} that {text} | text {to} saying {text} | send {to} a message saying {text} | "
    "send a text to {to} saying {text} | write to {to} that {text} | "
    'drop {to} a line saying {text} | send "{text}" to {to} | inform {to} that {text}',
    "message {to}: {text} | send a message to {to}: {text} | "
    "I want {to} to know that {text} | I need to tell {to} that {text} | message for {to}: {text} | "
    "text for {to}, {text} | I have to let {to} know that {text}",
)

LISTS = (
    ListKind(
        _pool("shopping, grocery, weekend", "pantry"),
        _pool(
            "lemons, eggs, onions, bananas, apples, avocados, tomatoes, bagels, yoghurts, limes, peppers, "
            "carrots, courgettes, mangoes, pears, croissants, cucumbers, leeks, oranges, muffins, potatoes, "
            "mushrooms, oat milk, butter, olive oil, flour, washing powder, honey, basil, brown rice, "
            "peanut butter, dog food, toilet paper, cheddar, coffee, tofu, cinnamon, green tea, dish soap, cat litter",
            "aubergines, figs, peaches, shallots, burger buns, artichokes, plums, parsnips, kiwis, soy sauce, "
            "maple syrup, almond milk, bin liners, smoked paprika, feta, rye bread, oregano",
        ),
    ),
    ListKind(
        _pool("packing, holiday, camping", "festival"),
        _pool(
            "socks, t-shirts, towels, jumpers, batteries, torches, water bottles, sleeping bags, shirts, tents, "
            "sun cream, toothpaste, insect spray, shampoo, soap, sunglasses, rope, matches, firewood, lip balm",
            "camping chairs, swimsuits, head torches, pillowcases, plastic cups, hand cream, hiking boots, "
            "walking poles, mosquito net, dry shampoo",
        ),
    ),
    ListKind(
        _pool("hardware, workshop, garden", "repairs"),
        _pool(
            "light bulbs, paint brushes, hinges, door handles, flower pots, shelf brackets, hooks, hose clips, "
            "fuses, sandpaper, wood glue, white paint, compost, grass seed, masking tape, grout, gravel, "
            "duct tape, varnish",
            "picture frames, curtain rings, drill bits, garden canes, door stops, plant feed, metal polish, "
            "wall filler, wire mesh, linseed oil",
        ),
    ),
    ListKind(
        _pool("party, picnic, birthday", "wedding"),
        _pool(
            "balloons, candles, paper plates, cupcakes, gift bags, napkins, glasses, chairs, lanterns, "
            "party hats, lemonade, ribbon, popcorn, crisps, ginger beer, salsa, wrapping paper, ice, hummus, iced tea",
            "place cards, tablecloths, garlands, confetti cannons, jugs, bunting, tonic water, guacamole, "
            "potato salad, apple juice",
        ),
    ),
)
LIST = _phrasings(
    "add {item} to the {list} list | add {item} to my {list} list | put {item} on the {list} list | "
    "put {item} on my {list} list | stick {item} on the {list} list | write {item} on the {list} list | "
    "note down {item} on my {list} list | get {item} onto the {list} list | pop {item} on the {list} list",
    "I need {item} on the {list} list | we need {item}, make a note on the {list} list | "
    "the {list} list needs {item} | my {list} list is missing {item} | on the {list} list, put {item} | "
    "to the {list} list, add {item} | I want {item} on my {list} list",
)

SWITCHED = _pool(
    "lights, lamp, fan, heater, speaker, TV, radio, ceiling light, floor lamp, air purifier, radiator",
    "humidifier, ceiling fan, fairy lights, electric blanket, dehumidifier, desk lamp",
)
DEVICE = _phrasings(
    "turn {on} the {device} in the {room} | turn {off} the {device} in the {room} | "
    "switch {on} the {room} {device} | switch {off} the {room} {device} | turn the {room} {device} {on} | "
    "turn the {room} {device} {off} | switch the {device} in the {room} {on} | "
    "switch the {device} in the {room} {off} | shut {off} the {device} in the {room} | "
    "put the {room} {device} {on} for me | power {off} the {device} in the {room}",
    "I want the {room} {device} {on} | I want the {device} in the {room} {off} | "
    "I don't need the {room} {device} any more, switch {it} {off} | "
    "I left the {room} {device} on, turn {it} {off} | the {device} in the {room} can go {off} now | "
    "I'm going into the {room}, so turn the {device} {on}",
)

STYLES = _pool(
    "quiet, upbeat, slow, classic, modern, nineties, eighties, lively, French, Brazilian, relaxing, live, old",
    "seventies, Cuban, mellow, sixties, Italian",
)
GENRES = _pool(
    "jazz, soul, reggae, folk music, techno, blues, disco, funk, country music, opera, swing, salsa, gospel, punk, "
    "hip hop, indie rock, bossa nova, piano music, film music, choir music, guitar music, dance music",
    "ska, heavy metal, flamenco, chamber music, synth pop, bluegrass, harp music, trip hop",
)
MUSIC = _phrasings(
    "play {music} in the {room} | put {music} on in the {room} | put on {music} in the {room} | "
    "start {music} in the {room} | stream {music} in the {room} | play {music} on the {room} speaker | "
    "start playing {music} in the {room} | queue up {music} in the {room}",
    "I feel like hearing {music} in the {room} | I'd love to hear {music} in the {room} | "
    "let's have {music} in the {room} | we want {music} in the {room}",
)
