"""What is said in Chinese of a failed run, in the English words that the table of failures knows."""

import re

_ENGLISH = {
    "显存不足|显存不够|爆显存|显存溢出|显存爆炸|显存爆了|显存超出": "cuda out of memory",
    "内存不足|内存溢出|爆内存|内存不够|内存爆了": "out of system memory",
    "停不下来|不停止|无法停止|不会停止|不会停|不停地?": "does not stop",
    "一直生成|无限生成|不断生成|持续生成": "keeps generating",
    "乱码|胡言乱语|胡说八道|答非所问": "gibberish",
    "重复输出|输出重复|不断重复|一直重复|无限重复": "repeats itself endlessly",
    "不下降|不降|降不下去|下不去|没有下降|不减": "does not decrease",
    "不收敛|无法收敛": "does not converge",
    "一直是0|一直为0|始终为0|变为0|变成0|等于0|为0": "is 0",
    "没有效果|没效果|不起作用|不生效|没有生效|无效果|没有作用": "has no effect",
    "没有变化|没有区别|没区别|一样": "the same",
    "效果变差|效果很差|效果差|效果不好|效果下降|变差": "worse",
    "卡住|卡死|一直卡|卡在|不动了": "hangs",
    "断点续训|继续训练|恢复训练": "resume training",
    "过拟合": "overfit",
    "合并": "merge",
    "训练": "training",
    "微调": "fine-tuning",
    "推理": "inference",
    "生成": "generate",
    "输出|回答|结果|回复": "output",
    "模型": "model",
    "损失": "loss",
    "找不到|未找到|不存在": "not found",
    "报错|错误": "error",
    "很慢|太慢|变慢|慢": "slow",
    "量化": "quantized",
    "失败": "failed",
    "权限不足|没有权限|无权限|拒绝访问": "permission denied",
    "网络不可达|连接失败|连接超时|无法连接": "network is unreachable",
    "不支持": "not supported",
}
_WORDS = re.compile("|".join(f"(?P<w{number}>{words})" for number, words in enumerate(_ENGLISH)))
_BY_GROUP = {f"w{number}": english for number, english in enumerate(_ENGLISH.values())}


def in_english(text: str) -> str:
    """`text` with the words that are known put into English; the rest stays."""
    return text if text.isascii() else _WORDS.sub(_translated, text)


def _translated(match: re.Match[str]) -> str:
    return f" {_BY_GROUP[match.lastgroup or '']} "
