"""General prompts on which a merged model is compared where the caller gives none."""

PARITY_PROMPTS = (
    "What is the capital of Japan?",
    "Write one sentence about rain.",
    "Name three fruits.",
    "Explain what a bridge is for.",
    "How many days are in a week?",
    "Translate 'good morning' into French.",
    "What is 12 plus 30?",
    "Give a title for a story about a lighthouse.",
    "Is the sun a planet or a star?",
    "List two uses of water.",
    "Finish the sentence: The door opened and",
    "What do bees make?",
    "Write a polite reply that declines an invitation.",
    "Which is larger, a mouse or a horse?",
    "Describe the colour blue to a child.",
    "Turn this into a question: The train leaves at noon.",
)
