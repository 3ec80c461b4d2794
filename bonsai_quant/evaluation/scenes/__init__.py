"""The small benchmark: captions, pictures drawn from them, and an exact checker of pictures.

In the spirit of GenEval (https://arxiv.org/abs/2310.11513): short captions in six categories,
each of which says what has to be in the picture. Everything in it is generated, so there is no
dataset, and what is right can be computed.
"""
