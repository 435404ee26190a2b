"""Callers who do not speak English: which language a line is in, and what the office says in it."""

import re
from typing import Final

from oneroof.understanding.numbers import word_set
from oneroof.understanding.vocabulary import PLAIN

# Words that tell a language; those of the first list count twice.
_WORDS: Final = {
    "German": (
        word_set(
            "ich möchte moechte haus häuser wohnung kaufen verkaufen suche suchen guten bitte zimmer besichtigen "
            "besichtigung "
            "termin uhr wieviel danke hallo mieten sprechen deutsch können koennen brauche schlafzimmer montag "
            "dienstag "
            "mittwoch donnerstag freitag samstag sonntag morgen heute gerne grüß servus stadtteil hätte haette würde "
            "wuerde "
            "anschauen ansehen kostet kosten rufen zurück zurueck jemand mich mir wir"
        ),
        word_set(
            "tag ein eine einen einem und für fuer mit nicht haben sie der das dem den zu von ist auf gern kann um "
            "wie oder auch nur drei zwei vier im"
        ),
    ),
    "Spanish": (
        word_set(
            "hola quiero quisiera comprar vender busco buscamos buenas buenos tardes gracias habitaciones "
            "dormitorios necesito cuánto cuanto cuesta "
            "español hablar alguien puedo usted casas baños mañana lunes martes miércoles jueves viernes sábado "
            "domingo ustedes "
            "quiere llamar teléfono favor precio barrio visitar gustaría gustaria hablan habla tienen tiene días "
            "dias alquilar"
        ),
        word_set("casa una un el los las de en para con que qué por mi me y tres dos cuatro ver la al del es a"),
    ),
    "French": (
        word_set(
            "bonjour bonsoir maison acheter vendre cherche cherchons chambres chambre merci voudrais voudrions "
            "parlez français visiter rendez-vous demain lundi mardi mercredi jeudi vendredi samedi dimanche besoin "
            "quartier "
            "combien coûte appartement rappeler"
        ),
        word_set("je une un le la les des du de à pour avec et vous s'il plaît est nous dans deux trois j'ai"),
    ),
}
_ENOUGH: Final = 3
_WORD: Final = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")

SORRY: Final = {
    "German": (
        "Es tut mir leid, unser Büro spricht am Telefon nur Englisch. Eine Kollegin, die Deutsch spricht, ruft Sie "
        "gern zurück."
    ),
    "Spanish": (
        "Lo siento, por teléfono nuestra oficina solo habla inglés. Una persona que habla español le devolverá la "
        "llamada."
    ),
    "French": (
        "Je suis désolé, notre bureau ne parle qu'anglais au téléphone. Une personne qui parle français vous "
        "rappellera."
    ),
}
ASK_NUMBER: Final = {
    "German": "Unter welcher Nummer erreichen wir Sie? (What telephone number can we reach you on?)",
    "Spanish": "¿A qué número podemos llamarle? (What telephone number can we reach you on?)",
    "French": "À quel numéro pouvons-nous vous rappeler? (What telephone number can we reach you on?)",
}


def language_of(text: str) -> str | None:
    """The language of ``text`` (as ``clean`` leaves it) if it is not English but one that the office can answer in."""
    words = _WORD.findall(text)
    scores = {name: _score(words, strong, weak) for name, (strong, weak) in _WORDS.items()}
    best = max(scores, key=scores.__getitem__)
    own = set(_WORDS[best][0] | _WORDS[best][1])
    english = sum(word in PLAIN and word not in own for word in words)
    foreign = sum(word in own for word in words)
    return best if scores[best] >= _ENOUGH and foreign > english else None


def _score(words: list[str], strong: frozenset[str], weak: frozenset[str]) -> int:
    said = set(words)
    count = 2 * len(said & strong) + len(said & weak)
    greeted = len(words) <= 3 and bool(said & {"hola", "bonjour", "bonsoir"})
    return max(count if said & strong else 0, _ENOUGH if greeted and said & strong else 0)
