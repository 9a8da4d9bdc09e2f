"""What a frozen encoder makes of pictures, kept on disk: a picture is decoded, cut and encoded once.

The encoder's output is kept, which the connector reads; connector and language model run, and train, as ever. The data
workers ask for it (:mod:`.store`), the batch carries it in the place of pixels (:mod:`.pictures`), and the training
process keeps what is new (:mod:`.cache`).
"""
