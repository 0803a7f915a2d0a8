"""What is learnt: the loss, the metrics, the reward.

    measure          the metric that a run is judged by, and the reward that it gives: `Measure`
    base             what every task says of outputs and targets: `Task`
    classification   classes of pictures, by cross-entropy and accuracy
    compiled         what a Keras model is compiled with, of any inputs and outputs
    fingerprint      by which a resumed run knows what its model is compiled with
"""
