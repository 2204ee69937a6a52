"""The packages of Colab and Kaggle, and a rehearsal of each."""
