"""How refusals and disclaimers of AI models are worded, by language; patterns over text in lower case."""

# Said by no person, wherever they stand.
DISCLAIMERS = {
    "en": (
        r"\bas an? (?:(?:large|ai|artificial intelligence|text-based|machine learning) )*(?:language model|ai|assistant|"
        r"artificial intelligence|ai (?:chatbot|assistant|model|system|program)|chatbot)"
        r"(?: (?:trained|developed|created|made) by \w+)?,? (?:i\b|my )",
        r"\bi(?: am|'m) (?:just |only |merely )?an? (?:(?:large|ai|artificial intelligence) )*"
        r"(?:language model|ai (?:chatbot|assistant))\b",
        r"\bmy (?:knowledge cut-?off|training data (?:only )?(?:goes|ends|extends))",
    ),
    "fr": (r"\ben tant qu(?:e modèle de langage|'ia\b|'intelligence artificielle|'assistant)",),
    "de": (
        r"\bals (?:ki-?|künstliche )[\w-]*(?:sprachmodell|assistent|intelligenz|modell)",
        r"\bals ki (?:kann|habe|bin) ich",
    ),
    "es, pt": (
        r"\bcomo (?:un |um )?modelo de (?:lenguaje|linguagem|língua)",
        r"\bcomo (?:una )?(?:ia|inteligencia artificial),",
    ),
    "it": (r"\bcome (?:modello linguistico|modello di linguaggio|intelligenza artificiale,|ia,)",),
    "nl": (r"\bals (?:een )?ai-?taalmodel",),
    "pl, cs": (r"\bjako (?:model językowy|sztuczna inteligencja,|jazykový model)",),
    "tr": (r"\bbir (?:yapay zeka )?dil modeli olarak",),
    "ru": (r"как (?:языковая модель|искусственный интеллект,|модель ии|ии,)",),
    "zh": (r"作为一[个個名]?(?:ai|人工智能|大?(?:型)?语言模型)", r"作為一個?(?:ai|人工智慧|語言模型)"),
    "ja": (r"言語モデルとして",),
    "ko": (r"언어 모델로서",),
    "ar": (r"كنموذج لغو", r"بصفتي نموذج"),
}

# One of these stands in every disclaimer; found fast, so that most answers need no search.
DISCLAIMER_HINTS = (
    *(
        "language model",
        "an ai",
        "a large",
        "artificial",
        "an assistant",
        "a chatbot",
        "knowledge cut",
        "my training data",
    ),
    *(
        "en tant qu",
        "als ki",
        "als künst",
        "como modelo",
        "como um",
        "como un",
        "como ia",
        "como inteli",
        "come modello",
        "come intel",
    ),
    *(
        "como una i",
        "come ia",
        "als ai",
        "als een ai",
        "jako model",
        "jako sztucz",
        "jako jazyk",
        "dil modeli",
        "как язык",
        "как иск",
    ),
    *("как ии", "как модель", "作为一", "作為", "言語モデル", "언어 모델", "인공지능", "نموذج"),
)

# Said by people too, so they count only where an answer begins with them.
REFUSALS = {
    "en": (
        r"(?:(?:i'?m|i am) (?:(?:really|very|so|truly|deeply) )?sorry,? ?(?:but )?|sorry,? (?:but )?|"
        r"i apologi[sz]e,? ?(?:but )?|"
        r"unfortunately,? |my apologies,? ?(?:but )?)?"
        r"i(?:'m| am)? (?:can'?t(?! wait)|can ?not(?! wait)|won'?t|will not|unable to|not able to|must decline to|"
        r"(?:do not|don'?t) feel comfortable)"
        r"[^.\n]{0,25}?\b(?:assist|help (?:you|with)|provid|fulfil|comply|answer (?:that|this|your)|creat|generat|"
        r"writ|do that|"
        r"shar(?:e|ing)|discuss|engag|support|continu|respond|participat|promot|complet|produc|process)",
        r"(?:i'm|i am) sorry,? but i (?:can'?t|can ?not|am unable|am not able|won'?t)\b",
        r"i (?:must|have to) (?:respectfully )?decline",
    ),
    "fr": (
        r"(?:je suis )?désolée?,? (?:mais )?je ne (?:peux|suis)",
        r"je ne (?:peux|suis) pas (?:en mesure|vous aider|répondre)",
    ),
    "de": (
        r"(?:es )?tut mir (?:sehr )?leid,? (?:aber )?(?:ich|dabei|das) k",
        r"entschuldigung,? (?:aber )?ich kann",
        r"ich kann (?:ihnen |dir )?(?:dabei |damit )?(?:leider )?nicht (?:helfen|weiterhelfen)",
    ),
    "es": (r"lo siento,? (?:pero )?no puedo", r"no puedo (?:ayudar|cumplir|proporcionar|responder)"),
    "pt": (r"(?:desculpe|sinto muito|lamento),? (?:mas )?(?:eu )?não posso", r"não posso (?:ajudar|cumprir|fornecer)"),
    "it": (r"mi dispiace,? (?:ma )?non posso", r"non posso (?:aiutar|fornir|soddisfar)"),
    "nl": (r"het spijt me,? (?:maar )?ik kan", r"sorry,? maar ik kan"),
    "pl": (r"(?:przykro mi|przepraszam),? (?:ale )?nie mogę",),
    "cs": (r"omlouvám se,? (?:ale )?nemohu",),
    "tr": (r"üzgünüm,? (?:ama|ancak)",),
    "ru": (
        r"(?:извините|простите|к сожалению|мне жаль),? (?:но )?я не мог",
        r"я не могу (?:помочь|предостав|выполн|ответить)",
    ),
    "zh": (r"(?:很|非常)?(?:抱歉|对不起|對不起)[，,]?(?:但)?(?:是)?我?(?:不能|无法|無法)",),
    "ja": (r"申し訳(?:ありません|ございません)が、",),
    "ko": (r"죄송하지만", r"죄송합니다만"),
    "ar": (r"(?:عذرا|عذراً|آسف|أعتذر)[،,]? ?(?:ولكن |لكن )?(?:لا|ل)",),
    "hi": (r"क्षमा करें, ",),
}
