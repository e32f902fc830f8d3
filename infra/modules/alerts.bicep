// What an operator is woken for. Messages: the metrics of the namespace, one time series per queue or topic, which tell
// of them also when no app runs. Turns: the metric that AOS writes. Functions: the requests that the host writes.
param location string
param tags object
param serviceBusId string
param workspaceId string
param email string

var poison = 'aos-poison'
var backlog = 1000

var metrics = [
  {
    name: 'aos-dead-letters'
    description: 'Messages were dead-lettered: python -m aos dead-letters list shows them.'
    metric: 'DeadletteredMessages'
    aggregation: 'Maximum'
    entities: ['*']
    threshold: 0
    window: 'PT5M'
    severity: 2
  }
  {
    name: 'aos-parked-messages'
    description: 'Messages that can never succeed were parked: python -m aos dead-letters list shows them.'
    metric: 'ActiveMessages'
    aggregation: 'Maximum'
    entities: [poison]
    threshold: 0
    window: 'PT5M'
    severity: 2
  }
  {
    name: 'aos-backlog'
    description: 'Messages wait: the apps do not keep up, or do not run.'
    metric: 'ActiveMessages'
    aggregation: 'Average'
    entities: ['agent-events', 'agent-commands', 'mcp-requests', 'mcp-responses', 'mcp-server-commands', 'aos-requests']
    threshold: backlog
    window: 'PT15M'
    severity: 2
  }
]

var searches = [
  {
    name: 'aos-failed-turns'
    description: 'More than 5 turns of agents failed within 15 minutes.'
    query: loadTextContent('../queries/failed_turns.kql')
    // A point of the metric stands for as many turns as its sum says.
    aggregation: 'Total'
    measure: 'Sum'
    operator: 'GreaterThan'
    threshold: 5
    window: 'PT15M'
    severity: 2
  }
  {
    name: 'aos-failed-invocations'
    description: 'Functions failed, or answered with 5xx, more than 10 times within 15 minutes.'
    query: loadTextContent('../queries/failed_invocations.kql')
    aggregation: 'Count'
    measure: null
    operator: 'GreaterThan'
    threshold: 10
    window: 'PT15M'
    severity: 2
  }
  {
    name: 'aos-silence'
    description: 'The sweep, which runs every ten seconds, has not run for 15 minutes: the app is down.'
    query: loadTextContent('../queries/silence.kql')
    aggregation: 'Count'
    measure: null
    operator: 'LessThan'
    threshold: 1
    window: 'PT15M'
    severity: 1
  }
]

resource operators 'Microsoft.Insights/actionGroups@2023-01-01' = {
  name: 'ag-aos'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'aos'
    enabled: true
    emailReceivers: empty(email) ? [] : [{ name: 'operator', emailAddress: email, useCommonAlertSchema: true }]
  }
}

resource metricAlert 'Microsoft.Insights/metricAlerts@2018-03-01' = [for alert in metrics: {
  name: alert.name
  location: 'global'
  tags: tags
  properties: {
    description: alert.description
    severity: alert.severity
    enabled: true
    scopes: [serviceBusId]
    evaluationFrequency: 'PT5M'
    windowSize: alert.window
    autoMitigate: true
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          name: alert.metric
          criterionType: 'StaticThresholdCriterion'
          metricNamespace: 'Microsoft.ServiceBus/namespaces'
          metricName: alert.metric
          operator: 'GreaterThan'
          threshold: alert.threshold
          timeAggregation: alert.aggregation
          dimensions: [
            {
              name: 'EntityName'
              operator: 'Include'
              values: alert.entities
            }
          ]
        }
      ]
    }
    actions: [
      { actionGroupId: operators.id }
    ]
  }
}]

resource searchAlert 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for alert in searches: {
  name: alert.name
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: alert.name
    description: alert.description
    severity: alert.severity
    enabled: true
    scopes: [workspaceId]
    evaluationFrequency: 'PT5M'
    windowSize: alert.window
    autoMitigate: true
    // The tables come into being with the first telemetry.
    skipQueryValidation: true
    criteria: {
      allOf: [
        {
          query: alert.query
          timeAggregation: alert.aggregation
          metricMeasureColumn: alert.measure
          operator: alert.operator
          threshold: alert.threshold
          failingPeriods: {
            numberOfEvaluationPeriods: 1
            minFailingPeriodsToAlert: 1
          }
        }
      ]
    }
    actions: {
      actionGroups: [operators.id]
    }
  }
}]
