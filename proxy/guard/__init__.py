"""What keeps a service in trouble, or in too much demand, from taking down what is around it."""
