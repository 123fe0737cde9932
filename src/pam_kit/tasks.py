"""What can be asked about a region, and in which words. Torch-free, so that the command line can list it.

The English questions are those of the released PAM notebooks; a checkpoint answers to these words.
"""

LANGUAGES = ("en", "zh")

QUESTIONS: dict[str, dict[str, str]] = {
    "recognize": {
        "en": "Classify this subject and provide its label.",
        "zh": "对该目标对象进行分类并给出标签",
    },
    "explain": {
        "en": "Classify this subject and provide the label and its definition.",
        "zh": "对该目标对象进行分类并给出标签和定义",
    },
    "caption": {
        "en": "Provide a concise caption for this subject.",
        "zh": "对该目标对象提供一个概括的描述",
    },
    "describe": {
        "en": "Provide a comprehensive and detailed description for this subject.",
        "zh": "对该目标对象提供一个全面细致的描述",
    },
}
TASKS = tuple(QUESTIONS)

# Of a clip: the words, and what stands for the history where there is none.
CLIP_CAPTION: dict[str, tuple[str, str]] = {
    "en": ("Provide a caption for this subject in this video.\nPrevious caption: {}", "None"),
    "zh": ("对该视频中的目标对象提供一个描述。\n历史描述：{}", "无"),
}


def question(task: str, language: str) -> str:
    """The words in which ``task`` is asked in ``language``; a KeyError names the valid ones."""
    if task not in QUESTIONS:
        raise KeyError(f"unknown task {task!r}; the tasks are {', '.join(TASKS)}")
    if language not in LANGUAGES:
        raise KeyError(f"unknown language {language!r}; the languages are {', '.join(LANGUAGES)}")
    return QUESTIONS[task][language]


def clip_question(task: str, language: str, history: str | None = None) -> str:
    """As ``question``, about a clip; ``history`` is what was said about the video before it.

    Only captions have words of their own for clips.
    """
    if task != "caption":
        return question(task, language)
    if language not in LANGUAGES:
        raise KeyError(f"unknown language {language!r}; the languages are {', '.join(LANGUAGES)}")
    words, nothing = CLIP_CAPTION[language]
    return words.replace("{}", history or nothing)
